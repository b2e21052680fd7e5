"""BatchNorm on given batch statistics equals torch's, in one process and with its rows spread over two ranks."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from toy_training import TWO_RANKS, run_script

from unisign_fast.kernels.deferred_activation.reference import with_batch_stats
from unisign_fast.kernels.dispatch import forcing
from unisign_fast.model.batch_norm import BatchNorm, BatchNorm2d
from unisign_fast.published.layout import mixed
from unisign_fast.utils.distributed import start_ranks

CHANNELS = 3
# On the CPU, where the kernels run in the interpreter only.
BACKENDS = ("reference", "gpu") if os.environ.get("TRITON_INTERPRET") == "1" else ("reference",)


def rows(shape: tuple[int, ...], channel_dim: int, mean: float = 0.0) -> Tensor:
    """Values whose mean and spread differ by channel; `mean` is added to all."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).movedim(channel_dim, -1)
    return (mean + torch.arange(1.0, CHANNELS + 1) * (x + 0.5)).movedim(-1, channel_dim)


def loss_weights(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(9))


def make_norm(channel_dim: int = -1, mean: float = 0.0) -> BatchNorm:
    """A norm that is neither new nor the identity, with a running mean slightly off `mean`."""
    norm = BatchNorm2d(CHANNELS) if channel_dim == 1 else BatchNorm(CHANNELS)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
        norm.running_mean.copy_(mean + torch.tensor([0.3, -0.2, 0.5]))
        norm.running_var.copy_(torch.tensor([0.5, 2.0, 3.0]))
    return norm


def apply(norm: nn.Module, x: Tensor) -> Tensor:
    """Maps and torch's own norms by themselves; rows by what a convolution measures and the next one applies."""
    if isinstance(norm, BatchNorm2d):
        return norm(x, [len(x)])
    if not isinstance(norm, BatchNorm):
        return norm(x)
    scale, shift = norm(with_batch_stats(x.reshape(-1, 1, CHANNELS), norm.training))
    return (x.float() * scale + shift).to(x.dtype)


def run(norm: nn.Module, x: Tensor, steps: int = 2) -> dict[str, Tensor]:
    """Outputs, gradients and state after some steps whose loss weighs every value differently."""
    x = x.clone().requires_grad_()
    for _ in range(steps):
        y = apply(norm, x)
    (y.float() * loss_weights(x.shape)).sum().backward()
    gradients = {"x.grad": x.grad, "weight.grad": norm.weight.grad, "bias.grad": norm.bias.grad}
    return {"y": y.detach(), **gradients, **{name: value.clone() for name, value in norm.state_dict().items()}}


def assert_same(result: dict[str, Tensor], expected: dict[str, Tensor], **tolerance) -> None:
    assert result.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            result[name], expected[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance
        )


# --- one process


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape, channel_dim", [((7, CHANNELS), -1), ((6, 5, CHANNELS), -1), ((4, CHANNELS, 2, 3), 1)])
def test_equals_torch(shape, channel_dim, training):
    ours, x = make_norm(channel_dim).train(training), rows(shape, channel_dim)
    torchs = nn.BatchNorm2d(CHANNELS) if channel_dim == 1 else nn.BatchNorm1d(CHANNELS)
    torchs.load_state_dict(ours.state_dict())
    flat = x if channel_dim == 1 else x.flatten(0, -2)
    expected = run(torchs.train(training), flat)
    for name in ("y", "x.grad"):
        expected[name] = expected[name].view(shape)
    result = run(ours, x)
    assert_same(result, expected, rtol=1e-5, atol=1e-6)
    if channel_dim == 1:
        assert torch.equal(result["y"], expected["y"]), "published features are met to the last bit"
    assert result["num_batches_tracked"] == (2 if training else 0)


def test_statistics_of_many_rows_keep_float32s_digits():
    """torch's own CPU kernel is off by 2e-5 here."""
    x = 3 + 0.3 * torch.randn(30_000, CHANNELS, generator=torch.Generator().manual_seed(0))
    expected = nn.BatchNorm1d(CHANNELS, affine=False).double()(x.double())
    torch.testing.assert_close(apply(BatchNorm(CHANNELS), x).double(), expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize("shape, channel_dim", [((0, CHANNELS), -1), ((0, 5, CHANNELS), -1), ((0, CHANNELS, 2, 3), 1)])
@pytest.mark.parametrize("training", [True, False])
def test_no_rows_change_nothing(shape, channel_dim, training):
    norm, x = make_norm(channel_dim).train(training), torch.zeros(shape)
    result = run(norm, x)
    assert result["y"].shape == result["x.grad"].shape == shape
    assert not result["weight.grad"].any() and not result["bias.grad"].any()
    fresh = make_norm(channel_dim)
    for name in ("running_mean", "running_var"):
        assert torch.equal(result[name], getattr(fresh, name))


def test_one_row_is_the_bias_and_leaves_the_statistics_alone():
    norm, x = make_norm(), rows((1, CHANNELS), -1)
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm1d(CHANNELS)(x)
    result, fresh = run(norm, x), make_norm()
    torch.testing.assert_close(result["y"][0], fresh.bias.detach(), rtol=0, atol=1e-4)
    assert not result["x.grad"].any()
    for name in ("running_mean", "running_var"):
        assert torch.equal(result[name], getattr(fresh, name))


def test_statistics_stay_float32_in_a_bfloat16_model():
    """An update of 0.1 % of a mean is less than bfloat16 can hold."""
    norm = nn.Sequential(make_norm()).bfloat16()[0]
    assert norm.weight.dtype == norm.bias.dtype == torch.bfloat16
    assert norm.running_mean.dtype == norm.running_var.dtype == torch.float32
    assert torch.equal(norm.running_mean, make_norm().running_mean) and norm.num_batches_tracked.dtype == torch.int64
    norm.momentum, before = 1e-4, norm.running_mean.clone()
    x = rows((64, CHANNELS), -1).bfloat16()
    y = apply(norm, x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(norm.running_mean, before + 1e-4 * (x.float().mean(0) - before))
    assert not torch.equal(norm.running_mean, before)
    reference = make_norm()
    torch.testing.assert_close(y, apply(reference, x.float()).bfloat16(), rtol=0.02, atol=0.02)


# --- two parts that share the layer


def two_parts(map_rows: tuple[int, int], kind: type = BatchNorm2d) -> tuple[BatchNorm, list[BatchNorm], list[Tensor]]:
    """One norm for both parts, one of its own for each, and the maps of each, which differ in mean and spread."""
    shared, apart = kind(CHANNELS, parts=2), [kind(CHANNELS), kind(CHANNELS)]
    for place, norm in enumerate(apart):
        norm.load_state_dict(make_norm().state_dict())
        norm.momentum = shared.momentum
        norm.running_mean += place
        shared.running()[0][place], shared.running()[1][place] = norm.running_mean, norm.running_var
        with torch.no_grad():
            shared.weight.copy_(norm.weight)
            shared.bias.copy_(norm.bias)
    whole = rows((sum(map_rows), CHANNELS, 2, 3), 1)
    left, right = whole.split(list(map_rows))
    return shared, apart, [left, 5 - 2 * right]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("maps", [(4, 3), (4, 0), (0, 3), (0, 0)])
def test_maps_of_two_parts_in_one_batch_equal_each_by_itself(maps, training):
    shared, apart, parts = two_parts(maps)
    x = torch.cat(parts).contiguous(memory_format=torch.channels_last).requires_grad_()
    shared.train(training)
    y = shared(x, maps)
    (y * loss_weights(x.shape)).sum().backward()
    alone = [p.clone().requires_grad_() for p in parts]
    ys = [norm.train(training)(p, [len(p)]) for norm, p in zip(apart, alone)]
    (torch.cat(ys) * loss_weights(x.shape)).sum().backward()
    if sum(maps):
        assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, torch.cat(ys), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x.grad, torch.cat([p.grad for p in alone]), rtol=1e-4, atol=1e-6)
    for name in ("weight", "bias"):
        summed_grad = sum(getattr(norm, name).grad for norm in apart)
        torch.testing.assert_close(getattr(shared, name).grad, summed_grad, rtol=1e-5, atol=1e-5)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(shared, name), torch.stack([getattr(norm, name) for norm in apart]))
    assert shared.num_batches_tracked == training * sum(n > 0 for n in maps)


def test_rows_of_one_part_leave_the_other_ones_statistics_alone():
    shared, apart, _ = two_parts((1, 1), BatchNorm)
    x, before = rows((20, CHANNELS), -1), shared.running_mean.clone()
    out = with_batch_stats(x.reshape(-1, 1, CHANNELS), True)
    torch.testing.assert_close(shared(out, 1), apart[1](out))
    assert torch.equal(shared.running_mean[0], before[0])
    torch.testing.assert_close(shared.running_mean[1], apart[1].running_mean)
    torch.testing.assert_close(shared.running_var[1], apart[1].running_var)
    assert not torch.equal(shared.running_mean[1], before[1])
    normalized = [shared.eval()(out, part) for part in (0, 1)]
    assert not torch.equal(normalized[0][1], normalized[1][1]), "in evaluation, too, each has its own"


def test_the_published_mixture_follows_from_the_statistics_of_both_hands():
    """torch's norm moved by the left hand and then by the right one, step after step, as the published code's is."""
    ours, published = BatchNorm2d(CHANNELS, parts=2), nn.BatchNorm2d(CHANNELS)
    for step in range(7):
        left, right = rows((4, CHANNELS, 2, 3), 1, mean=step), 3 - rows((5, CHANNELS, 2, 3), 1)
        ours(torch.cat([left, right]), (4, 5))
        published(left)
        published(right)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(mixed(getattr(ours, name)), getattr(published, name), rtol=1e-5, atol=1e-5)
    assert ours.num_batches_tracked == published.num_batches_tracked == 14
    same = torch.rand(CHANNELS)
    assert torch.equal(mixed(torch.stack([same, same])), same)


# --- two ranks

# Shape, channel dimension, rows of rank 0 and mean of each case; rank 1 has the other rows.
CASES = {
    "uneven": ((7, CHANNELS), -1, 5, 0.0),
    "joints": ((6, 4, CHANNELS), -1, 1, 0.0),
    "maps": ((5, CHANNELS, 2, 2), 1, 2, 0.0),
    "rank 1 empty": ((6, CHANNELS), -1, 6, 0.0),
    "rank 0 empty": ((6, CHANNELS, 2, 2), 1, 0, 0.0),
    "one row": ((1, CHANNELS), -1, 1, 0.0),
    "none": ((0, CHANNELS), -1, 0, 0.0),
    "far from zero": ((50, CHANNELS), -1, 20, 300.0),
}


def norm_and_rows(case: str) -> tuple[BatchNorm, Tensor, int]:
    shape, channel_dim, first, mean = CASES[case]
    return make_norm(channel_dim, mean), rows(shape, channel_dim, mean=mean), first


def weights_of_hands() -> list[Tensor]:
    """The loss's weights for the maps of `two_parts((3, 5))`."""
    return list(loss_weights((8, CHANNELS, 2, 3)).split([3, 5]))


def backward(norm: BatchNorm2d, x: Tensor, per_part: list[int], weights: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and gradient of x."""
    x.requires_grad_()
    y = norm(x, per_part)
    (y * weights).sum().backward()
    return y.detach(), x.grad


def maps_of_hands(ranks_taking_part: slice, hands: list[Tensor] | None = None) -> tuple[Tensor, list[int]]:
    """A rank's rows of both hands: rank 0 has all of the left hand, and both ranks share the right hand."""
    left, right = hands or two_parts((3, 5))[2]
    shares = [(left, right[:1]), (left[:0], right[1:])][ranks_taking_part]
    hands = [torch.cat(hand) for hand in zip(*shares)]
    return torch.cat(hands), [len(hand) for hand in hands]


@contextmanager
def counted_reductions() -> Iterator[list]:
    """A list to which every all-reduce within the block is appended."""
    seen, reduce = [], dist.all_reduce

    def counting(*arguments, **options):
        seen.append(arguments)
        return reduce(*arguments, **options)

    dist.all_reduce = counting
    try:
        yield seen
    finally:
        dist.all_reduce = reduce


def run_in_ranks(out: Path) -> None:
    """Run by each of two ranks: its share of every case, then an evaluation on rank 0 alone."""
    ranks = start_ranks()
    results = {}
    for case in CASES:
        norm, x, first = norm_and_rows(case)
        mine = slice(None, first) if ranks.is_first else slice(first, None)
        x, weight = x[mine].requires_grad_(), loss_weights(x.shape)[mine]
        for _ in range(2):
            y = apply(norm, x)
        (y * weight).sum().backward()
        gradients = {"weight.grad": ranks.sum(norm.weight.grad), "bias.grad": ranks.sum(norm.bias.grad)}
        results[case] = {"y": y.detach(), "x.grad": x.grad, **gradients, **norm.state_dict()}
    mine = slice(ranks.rank, ranks.rank + 1)
    for backend in BACKENDS:
        shared, _, _ = two_parts((3, 5))
        x, per_part = maps_of_hands(mine)
        with forcing(backend), counted_reductions() as reductions:
            y, x_grad = backward(shared, x, per_part, maps_of_hands(mine, weights_of_hands())[0])
        gradients = {"weight.grad": ranks.sum(shared.weight.grad), "bias.grad": ranks.sum(shared.bias.grad)}
        results[f"hands, {backend}"] = {"y": y, "x.grad": x_grad, **gradients, **shared.state_dict()}
        results[f"reductions, {backend}"] = len(reductions)
    if ranks.is_first:
        norm, x, _ = norm_and_rows("uneven")
        results["evaluation"] = apply(norm.eval(), x).detach()
    torch.save(results, out / f"rank{ranks.rank}.pt")
    ranks.leave()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> list[dict]:
    out = tmp_path_factory.mktemp("norm")
    status, output = run_script([*TWO_RANKS, __file__, str(out)])
    assert status == 0, output[-4000:]
    return [torch.load(out / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_with_all_rows(two_ranks, case):
    norm, x, first = norm_and_rows(case)
    expected = run(norm, x)
    result, other = (results[case] for results in two_ranks)
    assert len(result["y"]) == first
    for name in result.keys() - {"y", "x.grad"}:
        assert torch.equal(result[name], other[name]), f"{name} differs between the ranks"
    for name in ("y", "x.grad"):
        result[name] = torch.cat([result[name], other[name]])
    # What float32 resolves at 300 is 3e-5; sums of squares about zero would be wrong by 1e-3.
    assert_same(result, expected, rtol=1e-4, atol=2e-4 if case == "far from zero" else 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_ranks_share_the_statistics_of_each_hand(two_ranks, backend):
    """Both hands take one all-reduce in each direction."""
    assert [results[f"reductions, {backend}"] for results in two_ranks] == [2, 2]
    shared, _, _ = two_parts((3, 5))
    x, per_part = maps_of_hands(slice(None))
    whole = dict(zip(("y", "x.grad"), backward(shared, x, per_part, torch.cat(weights_of_hands()))))
    first, other = (results[f"hands, {backend}"] for results in two_ranks)
    for name, value in whole.items():
        for rank, result in enumerate((first[name], other[name])):
            expected, _ = maps_of_hands(slice(rank, rank + 1), list(value.split(per_part)))
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    gradients = {"weight.grad": shared.weight.grad, "bias.grad": shared.bias.grad}
    for name, expected in {**gradients, **shared.state_dict()}.items():
        assert torch.equal(first[name], other[name]), f"{name} differs between the ranks"
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-5)


def test_evaluation_needs_no_other_rank(two_ranks):
    norm, x, _ = norm_and_rows("uneven")
    assert torch.equal(two_ranks[0]["evaluation"], apply(norm.eval(), x))


if __name__ == "__main__":
    run_in_ranks(Path(sys.argv[1]))
