"""The whole model on GPU-only code paths, without a GPU: meta tensors count as CUDA tensors.

Every operation chooses its GPU backend, kernels are recorded instead of run, and a step that would make the host wait
for the device raises.
"""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_unisign import RGB, make_batch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from unisign_fast.kernels import dispatch
from unisign_fast.kernels.launch import recording
from unisign_fast.model.config import ModelConfig, MT5Shape
from unisign_fast.model.unisign import UniSign

ROOT = Path(__file__).resolve().parents[2]
LAYERS = 2
SHAPE = MT5Shape(vocab_size=64, num_layers=LAYERS, num_decoder_layers=LAYERS)  # mT5-Base's width and heads
POSE = ModelConfig(mt5=SHAPE, label_smoothing=0.2)
CONFIGS = {
    "pose": POSE,
    "rgb": replace(POSE, rgb=True),
    "rgb-cross": replace(POSE, rgb=True, fusion="cross"),
    "part": replace(POSE, parts="hands", part_bias=False),
}
ATTENTION = "attention_forward", "attention_backward_keys", "attention_backward_queries"  # kernels


class Operations(TorchDispatchMode):
    """Counts the operations that run."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.counts[operator.name()] += 1
        return operator(*args, **(kwargs or {}))


def meta_model(config: ModelConfig, dtype: torch.dtype) -> UniSign:
    with torch.device("meta"):
        return UniSign(config).to("meta", dtype).train()


def training_step(config: ModelConfig, dtype: torch.dtype) -> tuple[UniSign, Operations, Counter]:
    """The model after one step of AdamW on meta tensors, the operations, and the kernels launched by name."""
    model = meta_model(config, dtype)
    batch = make_batch([17, 30, 1, 9], crops=(4, 3) if config.rgb else (0, 0)).to("meta")
    optimizer = torch.optim.AdamW(model.parameters())
    with dispatch.as_device("cuda"), recording() as launches, Operations() as operations:
        loss, _ = model(batch)
        loss.backward()
        optimizer.step()
    return model, operations, Counter(launch.kernel.__name__ for launch in launches)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_training_step_goes_through(name, dtype):
    model, operations, launches = training_step(CONFIGS[name], dtype)
    assert [n for n, p in model.named_parameters() if p.grad is None or p.grad.shape != p.shape] == []
    assert launches.total() > 100
    attentions = 3 * LAYERS  # encoder, decoder, and the decoder's over the encoder
    assert [launches[name] for name in ATTENTION] == [attentions] * len(ATTENTION)
    assert launches["attention_bias_gradient"] == 2 * LAYERS
    assert not [name for name in operations.counts if "cudnn" in name]


def test_a_bias_is_never_copied_by_a_layer():
    _, operations, _ = training_step(POSE, torch.bfloat16)
    assert operations.counts["aten::constant_pad_nd"] == 0


def test_a_batch_without_clips_goes_through():
    model = meta_model(POSE, torch.bfloat16)
    with dispatch.as_device("cuda"), recording():
        model(make_batch([]).to("meta"))[0].backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("head", ["classifier", "ctc"])
@pytest.mark.parametrize("features", ["sign", "encoder"])
def test_a_task_head_goes_through(features, head):
    config = replace(POSE, head=head, head_features=features, head_classes=("word0", "word1"))
    model = meta_model(config, torch.bfloat16)
    with dispatch.as_device("cuda"), recording():
        loss = model(make_batch([6, 8]).to("meta"))[0]
        if head == "classifier":  # torch's CTC loss has no backward pass on meta tensors
            loss.backward()


class AttentionCalls(TorchFunctionMode):
    """Notes for each call of PyTorch's attention whether it may choose cuDNN."""

    def __init__(self):
        super().__init__()
        self.may_choose_cudnn = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is scaled_dot_product_attention:
            self.may_choose_cudnn.append(torch.backends.cuda.cudnn_sdp_enabled())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("fusion, attentions", [("deformable", 1), ("cross", 2)])
def test_attention_never_chooses_cudnn_which_builds_a_plan_for_every_shape(fusion, attentions):
    model = UniSign(replace(RGB, fusion=fusion)).eval()
    batch, tokens = make_batch([5, 7], crops=(3, 2)), 3
    with AttentionCalls() as calls:
        model.generate(batch, beams=2, max_new_tokens=tokens)
    layers = RGB.mt5.num_decoder_layers
    assert calls.may_choose_cudnn in [[False] * (attentions + 2 * layers * steps) for steps in range(1, tokens + 1)]
    assert torch.backends.cuda.cudnn_sdp_enabled(), "the caller's own attention may"


def test_the_host_waiting_for_the_device_raises():
    """The other tests rely on this."""
    with pytest.raises(RuntimeError, match="meta"):
        torch.ones(3, device="meta").sum().item()


def test_the_gpu_path_of_the_whole_model_imports_no_cpu_only_module():
    """numba itself may be imported, for the compiled loops of the data path."""
    code = """
import sys
sys.path.insert(0, "tests/model")
import test_gpu_paths
import torch
test_gpu_paths.training_step(test_gpu_paths.CONFIGS["rgb"], torch.bfloat16)
print([name for name in sys.modules if "kernels.cpu" in name or "cpu_kernel" in name])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[-2] == "[]"
