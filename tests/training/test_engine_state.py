"""A checkpoint of one layout resumes in any other: losses agree over ranks 1, 2 and 4 and ZeRO stages 0 to 3."""

import json
import sys
from pathlib import Path

import pytest
import torch
from toy_training import Toy, run_script, toy_batch

from unisign_fast.training import engine_state
from unisign_fast.training.deepspeed_engine import backward_step, set_schedule, start_engine
from unisign_fast.training.engine_state import load_engine, save_engine
from unisign_fast.training.settings import TrainSettings
from unisign_fast.utils.distributed import start_ranks

CLIPS, BEFORE, AFTER = 5, 3, 3
LAYOUTS = [(1, 0), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3), (4, 1), (4, 3)]  # ranks and ZeRO stage


def engine_of(precision: str, stage: int, seed: int):
    torch.manual_seed(seed)
    return start_engine(Toy(), TrainSettings(precision=precision, zero_stage=stage, learning_rate=0.05), BEFORE + AFTER)


def losses(engine, ranks, steps: int) -> list[float]:
    """The losses of some steps over all clips, each rank with its share."""
    result = []
    for _ in range(steps):
        batch = toy_batch([clip for clip in range(CLIPS) if clip % ranks.world_size == ranks.rank])
        targets = ranks.sum(torch.tensor(float(sum(batch.label_lengths))))
        result.append((backward_step(engine, [batch], ranks.world_size / targets).loss_sum / targets).item())
    return result


def error_of_a_full_disk(engine, folder: Path, full: bool) -> str | None:
    """The error of saving a state of many files, none of which is written, if the disk is full."""

    def save_file(*_) -> None:
        if full:
            raise OSError("disk full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_state, "FILE_BYTES", 1)
        patch.setattr(engine_state, "save_file", save_file)
        try:
            return save_engine(engine, folder)
        except OSError as error:
            return str(error)


def train_in_ranks(folder: Path, mode: str, *layouts: str) -> None:
    """`save PRECISION STAGE ...` trains and saves, `load ...` resumes from the checkpoint that two ranks saved at stage
    1."""
    ranks = start_ranks()
    for layout in layouts:
        precision, stage = layout[:4], int(layout[4:])
        saved = folder / precision
        if mode == "save":
            engine = engine_of(precision, stage, seed=0)
            losses(engine, ranks, BEFORE)
            saved.mkdir(exist_ok=True)
            ranks.barrier()
            save_engine(engine, saved)
            errors = ranks.gather(error_of_a_full_disk(engine, folder, full=ranks.rank == 1))
            if ranks.is_first:
                (folder / "errors.json").write_text(json.dumps(errors))
        else:
            engine = engine_of(precision, stage, seed=5)
            load_engine(engine, saved)
            set_schedule(engine, BEFORE)
        result = losses(engine, ranks, AFTER)
        if ranks.is_first:
            (folder / f"{mode}-{precision}-{ranks.world_size}-{stage}.json").write_text(json.dumps(result))
        engine.destroy()
    ranks.leave()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("states")
    starts = [(2, "save", ["fp321", "bf161"])]
    for ranks in (1, 2, 4):
        stages = [stage for count, stage in LAYOUTS if count == ranks]
        starts.append((ranks, "load", [f"fp32{stage}" for stage in stages] + ["bf161"]))
    for ranks, mode, layouts in starts:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        status, output = run_script([*launch, __file__, str(folder), mode, *layouts])
        assert status == 0, output[-4000:]
    return folder


def read(folder: Path, name: str) -> list[float]:
    return json.loads((folder / f"{name}.json").read_text())


def test_a_full_disk_on_one_rank_is_its_error_and_keeps_no_other_waiting(folder):
    assert read(folder, "errors") == [None, "disk full"]


@pytest.mark.parametrize("ranks, stage", LAYOUTS)
def test_losses_agree_in_any_layout(folder, ranks, stage):
    assert read(folder, f"load-fp32-{ranks}-{stage}") == pytest.approx(read(folder, "save-fp32-2-1"), rel=1e-6)


def test_the_same_layout_resumes_bit_for_bit(folder):
    for precision in ("fp32", "bf16"):
        assert read(folder, f"load-{precision}-2-1") == read(folder, f"save-{precision}-2-1")


def test_bf16_resumes_from_its_float32_masters(folder):
    for ranks in (1, 4):
        assert read(folder, f"load-bf16-{ranks}-1") == pytest.approx(read(folder, "save-bf16-2-1"), rel=2e-3)


if __name__ == "__main__":
    train_in_ranks(Path(sys.argv[1]), *sys.argv[2:])
