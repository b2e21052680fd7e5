"""Derives micro-batch sizes from GPU memory.

The bytes that autograd saves for a clip are counted on meta tensors before training, on the GPU's code paths, so they
reflect the model's shape, the precision and the share of sampled hands. Tensors stay within the int32 offsets of the
kernels. The clips of an optimiser step do not change.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from unisign_fast.kernels.dispatch import as_device
from unisign_fast.kernels.launch import MOST_ELEMENTS, TooManyElements
from unisign_fast.kernels.meta import FusedAsOnCuda
from unisign_fast.model.config import ModelConfig
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.batch_sampler import Budget
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.text.tokenizer import MAX_TARGET_TOKENS
from unisign_fast.training.settings import TrainSettings
from unisign_fast.utils.distributed import Ranks

AUTO = "auto"
PUBLISHED_CLIPS = {1: 16, 2: 4, 3: 8}  # clips of a micro-batch on a CPU, by stage
USED_SHARE = 0.85  # share of the free memory; the rest is for fragmentation and libraries
WORKSPACE = 4 << 30  # chunks of logits, temporaries of the largest layer, and buckets of gradients
PROMPT_TOKENS = 14


class SavedBytes:
    """Bytes of the distinct storages that autograd saves, grouped by `key()`, without the model's own tensors.

    `pack` is the hook for torch.autograd.graph.saved_tensors_hooks.
    """

    def __init__(self, model: nn.Module, key: Callable[[], str] = str):
        self.bytes: dict[str, int] = defaultdict(int)
        self._key = key
        self._seen = {x.untyped_storage()._cdata for x in (*model.parameters(), *model.buffers())}
        self._kept: list[torch.UntypedStorage] = []  # kept alive, so that no address is reused

    def pack(self, x: Tensor) -> Tensor:
        """Count the tensor's storage once, and save the tensor as it is."""
        storage = x.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._kept.append(storage)
            self.bytes[self._key()] += storage.nbytes()
        return x


def micro_batch_budget(
    settings: TrainSettings, data: DataSettings, config: ModelConfig, stage: int, ranks: Ranks
) -> Budget:
    """The budget of a micro-batch: the numbers in the settings, or for `auto` as many full-length clips as fit.

    Raises InputError if not even one clip fits.
    """
    clips = PUBLISHED_CLIPS[stage]
    if AUTO in (settings.frames_per_device, settings.tokens_per_device) and ranks.device.type == "cuda":
        free = min(ranks.gather(torch.cuda.mem_get_info(ranks.device)[0]))
        clips = clips_that_fit(free, settings, data, config, ranks.world_size)
    frames, tokens = settings.frames_per_device, settings.tokens_per_device
    return Budget(
        frames if isinstance(frames, int) else clips * data.max_frames,
        tokens if isinstance(tokens, int) else clips * MAX_TARGET_TOKENS,
    )


def clips_that_fit(
    free_bytes: int, settings: TrainSettings, data: DataSettings, config: ModelConfig, world_size: int
) -> int:
    """The number of full-length clips that fit into `free_bytes` along with the model and whose tensors the kernels can
    address, up to a rank's share of a step.

    Raises InputError if not even one clip fits.
    """
    state = state_bytes(settings, config, world_size)
    clip_bytes = (saved_bytes(4, settings, data, config) - saved_bytes(2, settings, data, config)) // 2
    clips = int((USED_SHARE * free_bytes - state - WORKSPACE) // clip_bytes)
    if clips < 1:
        problem = f"{free_bytes / 2**30:.0f} GiB are free, but the model and its optimiser need {state / 2**30:.0f} GiB"
        raise InputError("GPU memory", problem, "train with more ranks and --zero-stage 2, or lower --max-frames")
    return addressable_clips(min(clips, -(-settings.clips_per_step // world_size)), settings, data, config)


def addressable_clips(clips: int, settings: TrainSettings, data: DataSettings, config: ModelConfig) -> int:
    """At most `clips`: as many full-length ones as the kernels' int32 offsets can address, forward and backward, with a
    tenth to spare, because rounding can give short clips more hands.
    """
    model = meta_model(settings, replace(config, head="language_model"))  # CTC has no backward pass on meta tensors
    while True:
        try:
            with as_device("cuda"), FusedAsOnCuda():
                model(full_batch(-(-11 * clips // 10), data, config).to("meta"))[0].backward()
            return clips
        except TooManyElements as error:
            if clips == 1:
                return 1  # the step itself will say which setting to lower
            clips = max(1, clips * MOST_ELEMENTS // error.elements)


def state_bytes(settings: TrainSettings, config: ModelConfig, world_size: int) -> int:
    """Bytes per rank of weights, gradients, their float32 sums, master weights and AdamW's moments."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in UniSign(config).parameters())
    if settings.precision == "fp32" and settings.zero_stage == 0:
        return 16 * parameters  # the weights are their own masters, and nothing else sums gradients
    return 8 * parameters + 12 * parameters // (world_size if settings.zero_stage else 1)


def saved_bytes(clips: int, settings: TrainSettings, data: DataSettings, config: ModelConfig) -> int:
    """Bytes that autograd saves in a forward pass over `clips` full-length clips, counted on meta tensors."""
    model = meta_model(settings, config)
    saved = SavedBytes(model)
    with as_device("cuda"), FusedAsOnCuda(), saved_tensors_hooks(saved.pack, lambda x: x):
        model(full_batch(clips, data, config).to("meta"))
    return sum(saved.bytes.values())


def meta_model(settings: TrainSettings, config: ModelConfig) -> UniSign:
    """The model in training, without memory or values."""
    with torch.device("meta"):
        model = UniSign(config)
    return model.to("meta", torch.bfloat16 if settings.precision == "bf16" else torch.float32).train()


def full_batch(clips: int, data: DataSettings, config: ModelConfig) -> PackedBatch:
    """A batch of full-length clips with the number of hand crops that `p_samp` draws."""
    frames, crops = clips * data.max_frames, clips * round(data.p_samp * data.max_frames) if config.rgb else 0
    return PackedBatch(
        clip_ids=[""] * clips,
        texts=["".join(config.head_classes[:1])] * clips,
        lengths=[data.max_frames] * clips,
        poses=torch.empty(frames, len(config.joints.packed_joints), 3),
        crops=torch.empty(2 * crops, 3, data.crop_size, data.crop_size, dtype=torch.uint8),
        crops_per_hand=(crops, crops),
        crop_frame=torch.empty(2 * crops, dtype=torch.int64),
        crop_points=torch.empty(2 * crops, config.joints.hand_size, 2),
        prompt_ids=torch.ones(clips, PROMPT_TOKENS, dtype=torch.int64),
        label_ids=torch.ones(clips, MAX_TARGET_TOKENS, dtype=torch.int64),
    )


@contextmanager
def out_of_memory_advice(budget: Budget, max_frames: int) -> Iterator[None]:
    """Convert a GPU out-of-memory error, or a tensor too large for the kernels, into an InputError that names the
    settings to lower, and their new values.

    A micro-batch of one clip of `max_frames` can't be divided: the clip itself has to be shorter.
    """
    try:
        yield
    except (torch.OutOfMemoryError, TooManyElements) as error:
        where = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else f"GPU kernels ({error})"
        if budget.frames > max_frames:
            problem = f"a micro-batch of {budget.frames} frames and {budget.tokens} tokens does not fit"
            remedy = f"give --frames-per-device {budget.frames // 2} --tokens-per-device {budget.tokens // 2}"
        else:
            problem = f"a single clip of up to {max_frames} frames does not fit"
            remedy = f"give --max-frames {max_frames // 2}, or shard the optimiser over more ranks with --zero-stage 2"
        raise InputError(where, problem, remedy) from error
