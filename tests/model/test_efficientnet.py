"""EfficientNet-B0: torchvision's names, sizes and numbers."""

from copy import deepcopy

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.baseline.step import torch_efficientnet
from unisign_fast.kernels.dispatch import as_device, forcing, tensors
from unisign_fast.kernels.launch import recording
from unisign_fast.model import rgb_branch
from unisign_fast.model.batch_norm import BatchNorm2d
from unisign_fast.model.config import ModelConfig
from unisign_fast.model.efficientnet import EfficientNet, StochasticDepth
from unisign_fast.model.rgb_branch import RGBBranch
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.errors import InputError
from unisign_fast.training.initial_weights import load_imagenet_weights


def waves(shape: tuple[int, ...], start: int) -> Tensor:
    """Values in [-1, 1] that need no random generator, the same on every machine."""
    steps = torch.arange(start, start + torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(steps * 1.7).float().view(shape)


def fill(model: nn.Module) -> nn.Module:
    """Generic weights by formula: convolutions at Kaiming's scale, normalisations near identity."""
    for number, value in enumerate(model.state_dict().values()):
        if value.dim() == 4:
            value.copy_(waves(value.shape, number) * (4 / value[0].numel()) ** 0.5)
        elif value.dim() == 1:
            value.copy_(1 + 0.2 * waves(value.shape, number))
    return model


@pytest.fixture
def b0() -> EfficientNet:
    return fill(EfficientNet())


def test_has_the_names_and_size_of_torchvisions_features(b0):
    state = b0.state_dict()
    assert len(state) == 358
    assert sum(p.numel() for p in b0.parameters()) == 4_007_548
    assert state["0.0.weight"].shape == (32, 3, 3, 3)
    assert state["1.0.block.1.fc1.bias"].shape == (8,)
    assert state["6.3.block.1.0.weight"].shape == (1152, 1, 5, 5)
    assert state["7.0.block.3.1.running_var"].shape == (320,)
    assert state["8.1.num_batches_tracked"].shape == ()


# Four cells of the first crop's map and the mean square of both maps, computed with torchvision 0.28 in float64.
EXPECTED = {
    False: [1.29111, 0.33833, -0.26361, -0.15724, 1.04864],
    True: [1.59358, 0.07116, 1.28752, -0.27846, 1.51062],
}


def measure(model: EfficientNet, training: bool, dtype: torch.dtype) -> list[float]:
    model.train(training)
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.eval()
    with torch.no_grad():
        map_NCHW = model((waves((2, 3, 112, 112), 5) + waves((2, 3, 1, 1), 9)).to(dtype), [2])
    assert map_NCHW.shape == (2, 1280, 4, 4)
    return [*map_NCHW[0, [0, 400, 800, 1279], [0, 1, 2, 3], [3, 2, 1, 0]].tolist(), map_NCHW.square().mean().item()]


@pytest.mark.parametrize("training", [False, True])
def test_equals_torchvision(training):
    """In float64, since two crops' statistics multiply float32's rounding by thousands from layer to layer."""
    model = fill(torch_efficientnet()).double()
    assert measure(model, training, torch.float64) == pytest.approx(EXPECTED[training], rel=0, abs=1e-5)


def test_equals_torchvision_with_our_batch_norm_in_evaluation(b0):
    assert measure(b0, False, torch.float32) == pytest.approx(EXPECTED[False], rel=1e-4, abs=1e-4)


def test_thin_network_keeps_the_layout_with_channels_in_multiples_of_eight():
    thin = EfficientNet(width=0.25, depth=0.3)
    assert thin.channels == 320
    assert thin(torch.zeros(2, 3, 112, 112), [2]).shape == (2, 320, 4, 4)
    assert all(p.shape[0] % 8 == 0 for name, p in thin.named_parameters() if p.dim() == 4 and ".fc1." not in name)


def trained(backbone: EfficientNet, per_part: tuple[int, ...]) -> tuple[int, dict[str, Tensor]]:
    """Bytes of maps kept for the backward pass; then the loss's gradients and the state by their names."""
    maps = {}

    def count(tensor: Tensor) -> Tensor:
        if tensor.dim() == 4 and not isinstance(tensor, nn.Parameter):
            maps[tensor.data_ptr()] = tensor.nbytes
        return tensor

    torch.manual_seed(0)
    x_NCHW = torch.randn(4, 3, 112, 112).contiguous(memory_format=torch.channels_last)
    with saved_tensors_hooks(count, lambda tensor: tensor):
        loss = backbone(x_NCHW, per_part).square().mean()
    loss.backward()
    gradients = {f"gradient of {name}": p.grad for name, p in backbone.named_parameters()}
    return sum(maps.values()), gradients | backbone.state_dict()


def without_stochastic_depth(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0
    return model


@pytest.mark.parametrize("per_part", [(4, 0), (2, 2)])
def test_recomputed_maps_take_less_room(per_part):
    plain = EfficientNet(width=0.5, parts=2)
    fast = deepcopy(plain)
    with forcing("reference"):
        kept_by_reference, expected = trained(plain, per_part)
    with forcing("cpu"):
        kept, result = trained(fast, per_part)
    assert kept < 0.5 * kept_by_reference
    for name in ("0.1.running_mean", "0.1.running_var", "8.1.num_batches_tracked"):
        torch.testing.assert_close(result[name], expected[name])


@pytest.mark.parametrize("training", [True, False])
def test_two_parts_in_one_batch_equal_one_after_the_other(training):
    """A GPU takes the first way, a CPU the second; their sums differ in order. Of a bias before a normalisation the
    gradient is zero but for rounding, so it is measured by its layer's weight. Both by PyTorch's normalisation: these
    weights multiply the rounding in which another differs by thousands."""
    torch.manual_seed(0)
    together = without_stochastic_depth(fill(EfficientNet(width=0.25, depth=0.3, parts=2)).train(training))
    apart = deepcopy(together)
    x_NCHW = torch.rand(5, 3, 112, 112)
    with forcing("reference"):
        maps_NCHW = together(x_NCHW, (3, 2))
        left, right = apart(x_NCHW[:3], (3, 0)), apart(x_NCHW[3:], (0, 2))
    torch.testing.assert_close(torch.cat([left, right]), maps_NCHW, rtol=0, atol=1e-4 * maps_NCHW.abs().max().item())
    (maps_NCHW.square().sum() + maps_NCHW[3:].sum()).backward()
    (left.square().sum() + right.square().sum() + right.sum()).backward()
    expected = {name: p.grad for name, p in together.named_parameters()}
    for name, q in apart.named_parameters():
        grad_layer = expected[name], expected[name.removesuffix("bias").removesuffix("weight") + "weight"]
        largest = max(gradient.abs().max().item() for gradient in grad_layer)
        torch.testing.assert_close(q.grad, expected[name], rtol=0, atol=1e-3 * largest, msg=name)
    for (name, b), c in zip(together.named_buffers(), apart.buffers()):
        torch.testing.assert_close(c, b, rtol=1e-4, atol=1e-4, msg=name)


def test_no_crops_give_an_empty_map_and_zero_gradients():
    thin = EfficientNet(width=0.25, depth=0.3)
    map_NCHW = thin(torch.zeros(0, 3, 112, 112), [0])
    assert map_NCHW.shape == (0, 320, 4, 4)
    map_NCHW.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in thin.parameters())


def test_stochastic_depth_drops_whole_crops_in_training_only():
    layer, x_NCHW = StochasticDepth(0.25), torch.ones(4000, 2, 1, 1)
    torch.manual_seed(0)
    y_NCHW = layer(x_NCHW)
    assert torch.equal(y_NCHW[:, 0], y_NCHW[:, 1])
    assert y_NCHW.unique().tolist() == pytest.approx([0, 4 / 3])
    assert y_NCHW.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(layer.eval()(x_NCHW), x_NCHW)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_imagenet_weights_load_without_their_classifier(tmp_path, suffix):
    source, target = fill(EfficientNet(width=0.25, depth=0.3)), EfficientNet(width=0.25, depth=0.3, parts=2)
    weights = {f"features.{k}": v for k, v in source.state_dict().items()}
    weights |= {"classifier.1.weight": torch.zeros(10, 320), "classifier.1.bias": torch.zeros(10)}
    path = tmp_path / f"weights{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    load_imagenet_weights(target, path)
    loaded = target.state_dict()
    assert all(torch.equal(loaded[k], v.expand_as(loaded[k])) for k, v in source.state_dict().items())
    first = target[0][1]
    first.running_mean[0] += 1
    assert not torch.equal(*first.running_mean), "each hand continues from there with its own statistics"


def test_wrong_weights_are_named_in_one_line(tmp_path):
    path = tmp_path / "weights.pth"
    thin = EfficientNet(width=0.25, depth=0.3)
    with pytest.raises(InputError, match="does not exist"):
        load_imagenet_weights(thin, path)
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(InputError, match="damaged zip file"):
        load_imagenet_weights(thin, path)
    weights = {f"features.{k}": v for k, v in thin.state_dict().items()}
    weights["features.0.0.weight"] = torch.zeros(5)
    weights["features.9.weight"] = weights.pop("features.8.1.bias")
    torch.save(weights, path)
    with pytest.raises(InputError) as error:
        load_imagenet_weights(thin, path)
    assert "\n" not in str(error.value)
    for problem in ("0.0.weight is (5,) instead of (8, 3, 3, 3)", "9.weight is unknown", "8.1.bias is missing"):
        assert problem in str(error.value)


def branch(**config) -> RGBBranch:
    torch.manual_seed(0)
    small = ModelConfig(pose_channels=(8, 8, 8, 16), backbone_width=0.25, backbone_depth=0.3, rgb=True, **config)
    return without_stochastic_depth(RGBBranch(small))


def test_crops_padded_to_a_bucket_give_the_same_maps_gradients_and_statistics(monkeypatch):
    """Uses the reference, whose layers amplify rounding; each operation's padding has its own test."""
    plain = fill(branch())
    bucketed = deepcopy(plain)
    crops = torch.randint(0, 255, (5, 3, 64, 64), dtype=torch.uint8)
    with forcing("reference"):
        expected = plain.maps(crops, (3, 2))
        monkeypatch.setattr(rgb_branch, "bucketed_crops", lambda crops, like: 8)
        maps_NCHW = bucketed.maps(crops, (3, 2))
    assert maps_NCHW.shape == expected.shape
    torch.testing.assert_close(maps_NCHW, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    upstream = torch.randn(expected.shape)
    for maps in (expected, maps_NCHW):
        (maps * upstream).sum().backward()
    for (name, p), q in zip(plain.backbone.named_parameters(), bucketed.backbone.parameters()):
        layer = plain.backbone.get_parameter(name.removesuffix("bias").removesuffix("weight") + "weight")
        largest = max(p.grad.abs().max().item(), layer.grad.abs().max().item())
        torch.testing.assert_close(q.grad, p.grad, rtol=0, atol=1e-3 * largest, msg=name)
    for (name, b), c in zip(plain.named_buffers(), bucketed.buffers()):
        torch.testing.assert_close(c, b, rtol=1e-4, atol=1e-4, msg=name)


def test_training_goes_the_way_of_a_gpu_without_waiting_for_it():
    """Forward and backward of both hands on meta tensors, which raise where the host asks for a value."""
    with torch.device("meta"):
        rgb = branch().bfloat16()
        poses = [torch.empty(9, 21, 16, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
        batch = PackedBatch(
            clip_ids=["a"], texts=[""], lengths=[9], poses=torch.empty(9, 69, 3),
            crops=torch.empty(77, 3, 112, 112, dtype=torch.uint8), crops_per_hand=(40, 37),
            crop_frame=torch.empty(77, dtype=torch.int64), crop_points=torch.empty(77, 21, 2),
            prompt_ids=torch.empty(1, 2, dtype=torch.int64), label_ids=torch.empty(1, 2, dtype=torch.int64),
            prompt_lengths=[2], label_lengths=[2],
        )  # fmt: skip
    seen: list[tuple[str, int]] = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            seen.append((operator.__name__, len(args[0]) if isinstance(args[0], Tensor) and args[0].dim() == 4 else 0))
            return operator(*args, **(kwargs or {}))

    with as_device("cuda"), Recorder():
        fused = rgb(poses, batch)
        sum(x.float().square().sum() for x in fused).backward()
    assert all(p.grad is not None for p in rgb.parameters())
    names = [name for name, _ in seen]
    norms = sum(isinstance(module, BatchNorm2d) for module in rgb.modules())
    assert names.count("bn_stats_alone.default") == norms == names.count("bn_silu_backward.default")
    assert {crops for name, crops in seen if name == "convolution.default"} == {80}, "a bucket of crops"
    assert not any("grid_sampler" in name or "native_batch_norm" in name for name in names)


def test_a_step_takes_19_bytes_a_value_in_bfloat16():
    """EfficientNet-B0 on 112 x 112 pixels, forward and backward: every tensor that one of our operators takes or gives.

    A value is a number that a convolution writes.
    """
    with torch.device("meta"):
        backbone = EfficientNet(parts=2).bfloat16()
        crops = torch.empty(64, 3, 112, 112, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    bytes_by_name: dict[str, int] = {}
    values = 0

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            nonlocal values
            result = operator(*args, **(kwargs or {}))
            if operator.namespace == "unisign_fast":
                moved = [tensor.nbytes for tensor in (*tensors(args), *tensors(result))]
                bytes_by_name[operator.__name__] = bytes_by_name.get(operator.__name__, 0) + sum(moved)
                if operator.__name__ == "bn_stats_alone.default":
                    values += len(crops) * args[1] * args[0].shape[-1]
            return result

    with as_device("cuda"), recording() as launches, Recorder():
        backbone(crops, (32, 32)).sum().backward()
    assert values / len(crops) == pytest.approx(1.73e6, rel=0.01)
    assert sum(bytes_by_name.values()) / values < 19
    assert len(launches) == 327
