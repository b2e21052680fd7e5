"""The DeepSpeed engine: one step means the same on any number of ranks, in any split, at every ZeRO stage."""

import math
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toy_training import TWO_RANKS, Toy, run_script, toy_batch

from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.errors import InputError
from unisign_fast.training.deepspeed_engine import (
    backward_step,
    consolidated_state_dict,
    evaluation_mode,
    parameter_groups,
    set_schedule,
    start_engine,
)
from unisign_fast.training.engine_state import _unsharded_state
from unisign_fast.training.settings import TrainSettings
from unisign_fast.utils.distributed import start_ranks

STEPS, CLIPS, CLIP_NORM = 3, 5, 3.2
RUNS = [("fp32", stage) for stage in range(4)] + [("bf16", stage) for stage in range(4)]


def settings(precision: str, stage: int) -> TrainSettings:
    """Settings with a large eps, and clipping in one of three steps: AdamW would hide gradients of the wrong size."""
    return TrainSettings(
        learning_rate=0.2, weight_decay=0.1, eps=0.1, clip_norm=CLIP_NORM, precision=precision, zero_stage=stage
    )


def plain_torch_training() -> dict[str, Tensor]:
    """The result that every engine must match: all clips in one batch, one process, no DeepSpeed."""
    torch.manual_seed(0)
    model = Toy()
    optimizer = torch.optim.AdamW(parameter_groups(model, settings("fp32", 0)), betas=(0.9, 0.999), eps=0.1)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.2 * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        loss, tokens = model(toy_batch(list(range(CLIPS))))
        optimizer.zero_grad()
        (loss / tokens).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
    return model.state_dict()


def spoiled_batch(clips: list[int], value: float) -> PackedBatch:
    batch = toy_batch(clips)
    batch.poses[0] = value
    return batch


def check_bad_steps(engine, ranks) -> bool:
    """Whether steps that are bad on one rank leave weights, moments and buffers of all ranks bitwise unchanged."""
    engine.train()
    before = {name: value.clone() for name, value in _unsharded_state(engine)}
    rate = engine.get_lr()[0]
    bad, kept = [], True
    for value in (float("nan"), float("inf")):
        clips = [toy_batch([0]), spoiled_batch([1], value) if ranks.rank == 1 else toy_batch([1])]
        result = backward_step(engine, clips, torch.ones(()))
        bad.append(bool(result.is_bad) and torch.isfinite(result.micro_losses).tolist() == [True, ranks.rank == 0])
        kept &= all(torch.equal(before[name], value) for name, value in _unsharded_state(engine))
    set_schedule(engine, STEPS)
    assert engine.get_lr()[0] == rate
    return all(bad) and kept


def train_in_ranks(out: Path) -> None:
    """Run by each of two ranks: the clips split unevenly, one micro-batch without clips, one rank without crops; a
    step of one micro-batch, then steps of two."""
    ranks = start_ranks()
    from deepspeed.accelerator import get_accelerator  # late: the import selects the accelerator

    splits = {0: [[0, 2, 4]], 1: [[1, 3]]}, {0: [[4], [2, 0]], 1: [[], [3, 1]]}
    results, norms, waits = {}, {}, Counter()
    for precision, stage in RUNS:
        torch.manual_seed(0)
        model = Toy()
        engine = start_engine(model, settings(precision, stage), STEPS)
        get_accelerator().synchronize = lambda *_: waits.update([(precision, stage)])
        for step in range(STEPS):
            micro_batches = [toy_batch(clips) for clips in splits[min(step, 1)][ranks.rank]]
            tokens = ranks.sum(torch.tensor(float(sum((b.label_ids != -100).sum() for b in micro_batches))))
            result = backward_step(engine, micro_batches, ranks.world_size / tokens)
            if step == 0 and precision == "fp32":
                norms[stage] = result.grad_norm.item()
        del get_accelerator().synchronize
        state = consolidated_state_dict(engine)
        assert (state is None) == (ranks.rank == 1)
        kept = check_bad_steps(engine, ranks)
        with evaluation_mode(engine):  # a number of passes that differs between ranks
            losses = [engine.module(toy_batch([0, 1, 2]))[0] for _ in range(1 + ranks.rank)]
        assert engine.module.training
        backward_step(engine, [toy_batch([ranks.rank])], torch.ones(()))  # training continues after evaluation
        results[precision, stage] = state, losses[0], kept
        engine.destroy()
    if ranks.is_first:
        torch.save(results | {"norms": norms, "waits": waits}, out)
    ranks.leave()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("engine") / "states.pt"
    status, output = run_script([*TWO_RANKS, __file__, str(out)])
    assert status == 0, output[-4000:]
    return torch.load(out)


@pytest.mark.parametrize("stage", range(4))
def test_ranks_and_micro_batches_do_not_change_the_step(trained, stage):
    state, _, _ = trained["fp32", stage]
    expected = plain_torch_training()
    assert list(state) == list(expected)
    for name in expected.keys() - {"steps"}:
        torch.testing.assert_close(state[name], expected[name], rtol=1e-5, atol=1e-6, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize("stage", range(4))
def test_bf16_exports_its_float32_masters(trained, stage):
    state, _, _ = trained["bf16", stage]
    expected = plain_torch_training()
    torch.manual_seed(0)
    start = Toy().state_dict()
    for name in expected.keys() - {"steps"}:
        assert state[name].dtype == torch.float32
        assert not torch.equal(state[name], state[name].bfloat16().float()), "rounded to bf16"
        moved = (expected[name] - start[name]).norm()
        assert (state[name] - expected[name]).norm() < 0.1 * moved + 0.01, name


@pytest.mark.parametrize("precision, stage", RUNS)
def test_evaluation_sees_the_trained_weights(trained, precision, stage):
    state, loss, _ = trained[precision, stage]
    model = Toy()
    model.load_state_dict(state)
    expected = model(toy_batch([0, 1, 2]))[0]
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5 if precision == "fp32" else 2e-2, atol=0)


def test_buffers_are_exported(trained):
    assert all(state["steps"] == 2 * STEPS - 1 for state, _, _ in (trained[run] for run in RUNS))


@pytest.mark.parametrize("precision, stage", RUNS)
def test_a_step_that_is_not_finite_changes_nothing(trained, precision, stage):
    assert trained[precision, stage][2]


def test_the_norm_of_the_gradient_is_that_of_the_whole_step(trained):
    torch.manual_seed(0)
    model = Toy()
    loss, tokens = model(toy_batch(list(range(CLIPS))))
    (loss / tokens).backward()
    expected = nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
    assert all(norm == pytest.approx(expected, rel=1e-5) for norm in trained["norms"].values())


def test_steps_do_not_wait_for_the_device_between_micro_batches(trained):
    """DeepSpeed's throughput timer would, before every forward pass from the third step on."""
    assert trained["waits"] == {}


def test_plain_python_needs_no_launcher(tmp_path):
    script = "from unisign_fast.utils.distributed import start_ranks; r = start_ranks(); "
    script += "assert (r.rank, r.world_size) == (0, 1)"
    status, output = run_script([sys.executable, "-c", script])
    assert status == 0, output[-4000:]


def test_a_launchers_port_that_another_run_has_is_named():
    script = "from unisign_fast.utils.console import clean_exit\n"
    script += "from unisign_fast.utils.distributed import start_ranks\nwith clean_exit(): start_ranks()"
    with socket.create_server(("", 0)) as other:
        port = str(other.getsockname()[1])
        status, output = run_script([sys.executable, "-c", script], MASTER_PORT=port, CROSS_RANK="0")
    assert status == 2 and "Traceback" not in output
    assert f"error: MASTER_PORT: {port} is in use" in output and "deepspeed --master_port" in output


@pytest.mark.parametrize(
    "error, status", [("InputError('x', 'fails', 'mend it')", 2), ("ZeroDivisionError('fails')", 1)]
)
def test_a_rank_that_fails_does_not_wait_for_the_others_in_nccl(error, status):
    """They wait for it in a collective; nccl destroys its group only with all ranks."""
    script = f"""
import torch.distributed as dist
from unisign_fast.pipelines.errors import InputError
from unisign_fast.utils.console import clean_exit
from unisign_fast.utils.distributed import start_ranks
start_ranks()
dist.get_backend, dist.get_world_size = lambda: "nccl", lambda: 2
dist.destroy_process_group = lambda: print("waits")
with clean_exit():
    raise {error}
"""
    ended, output = run_script([sys.executable, "-c", script])
    assert ended == status and "fails" in output and "waits" not in output


def test_decay_spares_biases_and_vectors_and_rgb_learns_faster():
    model = nn.ModuleDict({"a": nn.Linear(2, 3), "norm": nn.LayerNorm(3), "rgb": nn.Linear(2, 2)})
    model.register_parameter("bias", nn.Parameter(torch.zeros(2, 2)))
    groups = parameter_groups(model, TrainSettings(learning_rate=0.2, rgb_rate=3.0, weight_decay=0.1))
    rows = [(round(g["lr"], 6), g["weight_decay"], len(g["params"])) for g in groups]
    assert rows == [(0.2, 0.1, 1), (0.2, 0.0, 4), (0.6, 0.1, 1), (0.6, 0.0, 1)]
    assert groups[0]["params"][0] is model["a"].weight and groups[2]["params"][0] is model["rgb"].weight


def test_more_ranks_than_gpus_are_refused():
    script = "import torch; torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 2\n"
    script += "from unisign_fast.utils.distributed import start_ranks; start_ranks()"
    status, output = run_script([sys.executable, "-c", script], RANK="2", LOCAL_RANK="2", WORLD_SIZE="3")
    assert status == 1 and "LOCAL_RANK: is 2, but only 2 of this machine's GPUs are visible" in output


def test_on_a_gpu_deepspeed_does_not_try_which_operations_it_could_compile():
    """Without the CUDA toolkit it would print a warning for each of them, on every rank."""
    script = "from unisign_fast.utils.distributed import import_deepspeed; ops = import_deepspeed().ops\n"
    script += "assert '__compatible_ops__' not in vars(ops)"
    status, output = run_script([sys.executable, "-c", script], DS_ACCELERATOR="cuda")
    assert status == 0, output[-4000:]


@pytest.mark.parametrize("field, value", [("epochs", 0), ("learning_rate", -1.0), ("zero_stage", 4), ("resume", "no")])
def test_settings_name_the_option(field, value):
    with pytest.raises(InputError, match=f"--{field.replace('_', '-')}"):
        TrainSettings(**{field: value})


if __name__ == "__main__":
    train_in_ranks(Path(sys.argv[1]))


def test_tasks_that_do_not_know_their_ranks_are_refused():
    """Ranks as `deepspeed --launcher slurm` starts them: each would train alone, into one folder."""
    script = "from unisign_fast.utils.distributed import start_ranks; start_ranks()"
    status, output = run_script([sys.executable, "-c", script], SLURM_NTASKS="2")
    assert status == 1 and "SLURM_NTASKS: is above 1" in output
