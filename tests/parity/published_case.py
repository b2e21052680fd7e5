"""A case dumped by the published implementation: its inputs as a packed batch, its numbers against ours.

Clips of one length are compared whole, in evaluation and in training. Of clips of several lengths the shorter ones are
compared without their last six frames: the published code pads a batch with copies of the last frame, which three
temporal convolutions of five taps carry six frames into the clip. There loss and generated tokens are computed from the
published embeddings, and training is not compared, because padding enters every statistic. Nor is it compared if mT5's
dropout was on or a clip had no hand, which the published statistics replace by a black crop.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from stochastic_depth import keep_crops_of_case
from torch import Tensor
from undecided_relu import UndecidedReLU

from unisign_fast.checkpoints.weight_files import read_torch_file
from unisign_fast.kernels.deferred_activation.op import deferred_activation
from unisign_fast.kernels.deferred_activation.reference import DeferredActivation
from unisign_fast.kernels.dispatch import forcing
from unisign_fast.kernels.packing import Packing
from unisign_fast.model.beam_search import search_hypotheses
from unisign_fast.model.rgb_branch import IMAGENET_MEAN, IMAGENET_STD
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.packed_batch import IGNORED, PackedBatch
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.skeleton import HANDS
from unisign_fast.published.layout import publish
from unisign_fast.text.tokenizer import PAD, until_end

EVALUATION_TOLERANCE, TRAINING_TOLERANCE = 1e-5, 1e-4
LEAK = 6  # frames that padding reaches
BAND = 4  # rounding decides a ReLU within this multiple of the features' largest relative error around zero
COIN_PAIRS = 2  # passes with such ReLUs redrawn, for what may be added to a gradient's tolerance
BEAMS = 4
CASE_PARTS = ("body", "left", "right", "face_all")
ENCODERS = {"body": ("body", 0), "left": ("hand", 0), "right": ("hand", 1), "face_all": ("face", 0)}  # encoder, call
CASE_KEYS = {"state_dict", "mt5_config", "args", "src_input", "label_ids", "prefix_ids", "eval", "generated", "train"}


@dataclass(frozen=True)
class Difference:
    """How far one stage is from the published one: the norm of the difference by that of the published tensor."""

    stage: str
    error: float
    tolerance: float

    @property
    def within(self) -> bool:
        """False for NaN too."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        return f"{'ok  ' if self.within else 'FAIL'} {self.error:9.2e} (<= {self.tolerance:.1e})  {self.stage}"


def read_case(path: Path) -> dict:
    """Reads the file of the dumping command. Raises InputError for anything else."""
    case = read_torch_file(path)
    missing = CASE_KEYS - set(case if isinstance(case, dict) else ())
    if missing:
        raise InputError(path, f"not a dumped case ({', '.join(sorted(missing))} missing)", "dump it again")
    return case


def batch_of_case(case: dict) -> PackedBatch:
    """The case's padded inputs as one packed batch, without the padding."""
    source = case["src_input"]
    lengths = source["src_length_batch"].tolist()
    clips = len(lengths)
    poses_BTJ3 = torch.cat([source[part] for part in CASE_PARTS], 2)
    starts = torch.tensor([0, *accumulate(lengths)][:-1])
    crops, frames, points = [torch.zeros(0, 3, 112, 112)], [torch.zeros(0, dtype=torch.long)], [torch.zeros(0, 21, 2)]
    counts = []
    for hand in HANDS:
        index_N = source.get(f"{hand}_sampled_indices", frames[0])
        real = index_N >= 0  # -1 stands for a clip without this hand
        counts.append(int(real.sum()))
        if counts[-1]:
            start_N = starts.repeat_interleave(torch.tensor(source[f"{hand}_rgb_len"]))
            crops.append(source[f"{hand}_hands"][real])
            frames.append((index_N + start_N)[real])
            points.append(source[f"{hand}_skeletons_norm"][real])
    return PackedBatch(
        clip_ids=[str(clip) for clip in range(clips)],
        texts=[""] * clips,
        lengths=lengths,
        poses=torch.cat([clip[:length] for clip, length in zip(poses_BTJ3, lengths)]).float(),
        crops=_as_bytes(torch.cat(crops)),
        crops_per_hand=(counts[0], counts[1]),
        crop_frame=torch.cat(frames),
        crop_points=torch.cat(points),
        prompt_ids=torch.as_tensor(case["prefix_ids"]).view(1, -1).expand(clips, -1),
        label_ids=case["label_ids"].masked_fill(case["label_ids"] == PAD, IGNORED),
    )


def _as_bytes(pixels_N3SS: Tensor) -> Tensor:
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return ((pixels_N3SS * std + mean) * 255).round().to(torch.uint8)


def compare(case: dict, model: UniSign) -> list[Difference]:
    """Every stage that can be compared. `model` has the case's weights and must not be used afterwards."""
    batch = batch_of_case(case)
    model.language_model.label_smoothing = case["args"]["label_smoothing"]
    differences = _evaluation(case, model, batch)
    drawn = case["mt5_config"]["dropout_rate"] > 0
    blank = sum(len(case["src_input"].get(f"{hand}_hands", ())) for hand in HANDS) > len(batch.crops)
    if len(set(batch.lengths)) == 1 and not drawn and not blank:
        differences += _training(case, model, batch)
    return differences


@torch.no_grad()
def _evaluation(case: dict, model: UniSign, batch: PackedBatch) -> list[Difference]:
    truth, tolerance, new_tokens = case["eval"], EVALUATION_TOLERANCE, case["generated"].shape[1] - 1
    model.eval()
    with recorded(model) as seen:
        loss, tokens = model(batch)
    if len(set(batch.lengths)) == 1:
        generated = model.generate(batch, BEAMS, new_tokens)
    else:
        mask_BS, language_model = truth["attention_mask"].bool(), model.language_model
        packing, targets = (Packing(n, mask_BS.device) for n in (mask_BS.sum(1).tolist(), batch.label_lengths))
        hidden_PD = language_model.encode(packing.pack(truth["inputs_embeds"]), packing)
        loss = language_model.token_loss(hidden_PD, packing, targets.pack(batch.label_ids), targets)
        hypotheses = search_hypotheses(language_model.mt5, hidden_PD, packing, BEAMS, new_tokens)
        generated = [texts[0].tokens for texts in hypotheses]
    rows = _features("eval", seen, truth, model, batch, tolerance)
    rows.append(_difference("eval loss", loss / tokens, truth["loss"], tolerance))
    same = generated == [until_end(row[1:]) for row in case["generated"].tolist()]
    return [*rows, Difference("eval generated tokens", 0.0 if same else float("inf"), 0.0)]


def _training(case: dict, model: UniSign, batch: PackedBatch) -> list[Difference]:
    truth, tolerance = case["train"], TRAINING_TOLERANCE
    model.train()
    if model.rgb is not None:
        keep_crops_of_case(model.rgb, batch, truth["bn_after"])
    with recorded(model) as seen:
        loss, gradients = _loss_and_gradients(model, batch)
    rows = _features("train", seen, truth, model, batch, tolerance)
    band = BAND * max(row.error for row in rows)
    rows.append(_difference("train loss", loss, truth["loss"], tolerance))
    rows += _statistics(model, truth["bn_after"], tolerance)
    undecided = defaultdict(float)  # published name -> how far redrawn ReLUs move that gradient
    with forcing("reference"):  # the fast versions call no ReLU that could be redrawn
        decided = _loss_and_gradients(model, batch)[1]
        for seed in range(COIN_PAIRS):
            for side in (False, True):
                with UndecidedReLU(band, seed, side):
                    for name, gradient in _loss_and_gradients(model, batch)[1].items():
                        undecided[name] = max(undecided[name], (gradient - decided[name]).norm().item())
    for name, gradient in truth["grad"].items():
        # A bias is measured by its layer's weight: before BatchNorm or a softmax its gradient is zero but for rounding.
        layer = truth["grad"].get(name.removesuffix("bias") + "weight", gradient)
        scale = max(gradient.norm().item(), layer.norm().item())
        allowed = tolerance + 2 * undecided[name] / scale if scale else 0.0
        rows.append(_difference(f"train gradient {name}", gradients.get(name), gradient, allowed, scale))
    return rows


def _statistics(model: UniSign, truth: dict[str, Tensor], tolerance: float) -> list[Difference]:
    """BatchNorm's running statistics; a mean, which may be zero, is measured by its channels' spread."""
    ours, rows = publish(dict(model.named_buffers())), []
    for name, value in truth.items():
        spread = truth[name.replace("running_mean", "running_var")].sqrt().norm().item()
        least = spread if name.endswith("mean") else 0.0
        rows.append(_difference(f"train {name}", ours.get(name), value, tolerance, least))
    return rows


def _loss_and_gradients(model: UniSign, batch: PackedBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss a token, and the gradients by their published names."""
    model.zero_grad()
    loss, tokens = model(batch)
    (loss / tokens).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return (loss / tokens).detach(), publish(gradients)


@contextmanager
def recorded(model: UniSign) -> Iterator[dict[str, list[Tensor]]]:
    """The outputs of the stages of `model` while the context is open, in the order of calls (left hand first)."""
    stages = {"projection": model.projection}
    for name, encoder in model.pose_encoders.items():
        stages |= {f"proj/{name}": encoder.embedding, f"spatial/{name}": encoder}
        stages[f"temporal/{name}"] = model.temporal_encoders[name].blocks[-1]
    if model.rgb is not None:
        stages |= {"pgf_out": model.rgb.fusion.local, "gate": model.rgb.fusion.gate}
    seen = defaultdict(list)

    def hook(stage: str):
        def record(module, inputs, output):
            value = deferred_activation(output) if isinstance(output, DeferredActivation) else output
            seen[stage].append(value.detach())

        return record

    handles = [module.register_forward_hook(hook(stage)) for stage, module in stages.items()]
    yield seen
    for handle in handles:
        handle.remove()


def _features(
    when: str, seen: dict[str, list[Tensor]], truth: dict, model: UniSign, batch: PackedBatch, tolerance: float
) -> list[Difference]:
    """The stages from keypoints to embeddings, in their order."""
    lengths = batch.lengths
    clear = [length if length == max(lengths) else max(0, length - LEAK) for length in lengths]
    rows = []
    for part, (encoder, call) in ENCODERS.items():
        for stage, frames in (("proj", lengths), ("spatial", lengths), ("temporal", clear)):
            published = truth["features"][f"{stage}/{part}"]
            published_BTVC = published if stage == "proj" else published.permute(0, 2, 3, 1)
            ours = [x[:n] for x, n in zip(seen[f"{stage}/{encoder}"][call].split(lengths), frames)]
            theirs = [x[:n] for x, n in zip(published_BTVC, frames)]
            rows.append(_difference(f"{when} {stage}/{part}", torch.cat(ours), torch.cat(theirs), tolerance))
    for stage in ("pgf_out", "gate"):
        if stage in truth:
            ours, theirs = torch.cat(seen[stage]), torch.cat(truth[stage]).transpose(1, 2)
            rows.append(_difference(f"{when} {stage}", ours, theirs, tolerance))
    with torch.no_grad():
        embeddings_PD, packing = model.embed(seen["projection"][0], batch)
    until = [p + n for p, n in zip(batch.prompt_lengths, clear)]
    embeddings = embeddings_PD.split(packing.lengths), truth["inputs_embeds"]
    ours, theirs = ([x[:n] for x, n in zip(e, until)] for e in embeddings)
    return [*rows, _difference(f"{when} embeddings", torch.cat(ours), torch.cat(theirs), tolerance)]


def _difference(
    stage: str, ours: Tensor | None, theirs: Tensor, tolerance: float, least_scale: float = 0.0
) -> Difference:
    if ours is None or ours.shape != theirs.shape:
        return Difference(stage, float("inf"), tolerance)
    distance, scale = (ours.double() - theirs.double()).norm().item(), theirs.double().norm().item()
    scale = max(scale, least_scale)
    return Difference(stage, distance / scale if scale else distance, tolerance)
