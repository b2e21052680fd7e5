"""A checkpoint is complete or ignored, whenever a process is killed and whatever happens to the files."""

import errno
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from unisign_fast.pipelines.errors import InputError
from unisign_fast.training.checkpoint import Checkpoints
from unisign_fast.training.disk import write_files
from unisign_fast.utils.distributed import Ranks

FILE_EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree"}


def checkpoints(run: Path) -> Checkpoints:
    return Checkpoints(run / "checkpoints", Ranks(0, 1, torch.device("cpu")))


def writer(step: int):
    def write(folder: Path) -> None:
        (folder / "model.pt").write_bytes(b"weights of %d" % step * 1000)
        (folder / "shards").mkdir()
        (folder / "shards" / "rank0.pt").write_bytes(b"optimiser of %d" % step)

    return write


def save(run: Path, step: int) -> None:
    checkpoints(run).save(step, {"step": step}, writer(step))


def check_newest(run: Path, allowed: set[int]) -> int:
    """Asserts that the newest complete checkpoint is of an allowed step, and has that step's content."""
    result, _ = checkpoints(run).newest()
    assert result is not None, "no whole checkpoint is left"
    step = result.state["step"]
    assert step in allowed and result.folder.name == f"step_{step:08d}"
    assert (result.folder / "model.pt").read_bytes() == b"weights of %d" % step * 1000
    assert (result.folder / "shards" / "rank0.pt").read_bytes() == b"optimiser of %d" % step
    return step


def run_and_kill(action, at_event: int) -> bool:
    """Run `action` in a child that kills itself before file operation `at_event`; returns whether it was killed."""
    child = os.fork()
    if child == 0:
        count = 0

        def kill_at(event: str, _arguments) -> None:
            nonlocal count
            if event in FILE_EVENTS:
                count += 1
                if count == at_event:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill_at)
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_two_are_kept_and_latest_names_the_newest(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step)
    folder = tmp_path / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["latest", "step_00000020", "step_00000030"]
    assert (folder / "latest").read_text() == "step_00000030"
    assert check_newest(tmp_path, {30}) == 30


def test_a_new_run_has_no_checkpoint(tmp_path):
    assert checkpoints(tmp_path).newest() == (None, [])


def test_a_kill_at_any_file_operation_leaves_a_complete_checkpoint(tmp_path):
    """Each save is killed before its first, second, ... file operation, and then repeated undisturbed."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    step, kills, seen = 2, 0, set()
    while run_and_kill(lambda: save(tmp_path, step + 1), kills + 1):
        kills += 1
        seen.add(check_newest(tmp_path, {step, step + 1}) - step)
        save(tmp_path, step + 2)
        step = check_newest(tmp_path, {step + 2})
        assert len(list((tmp_path / "checkpoints").glob("step_*"))) == 2
    assert kills > 10 and seen == {0, 1}, "some kills come before, some after the new one is whole"


MANIFESTS = {
    "broken manifest": lambda good: json.dumps(good)[:50],
    "empty manifest": lambda good: "[]",
    "deep manifest": lambda good: "[" * 100_000,
    "an invalid entry": lambda good: json.dumps(good | {"files": {"model.pt": 7}}),
    "a file outside": lambda good: json.dumps(good | {"files": {"../latest": [13, "x"]}}),
    "no files": lambda good: json.dumps(good | {"files": {}}),
    "no state": lambda good: json.dumps(good | {"state": None}),
    "another step": lambda good: json.dumps({"files": good["files"], "state": {"step": 3}}),
    "an invalid step": lambda good: json.dumps({"files": good["files"], "state": {"step": "2"}}),
    "an invalid best score": lambda good: json.dumps({"files": good["files"], "state": {"step": 2, "best": "x"}}),
    "an altered state": lambda good: json.dumps(good | {"state": {"step": 2, "best": 5}}),
}
DAMAGES = "truncated", "altered", "missing", "no manifest", *MANIFESTS


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped(tmp_path, damage):
    save(tmp_path, 1)
    save(tmp_path, 2)
    folder = tmp_path / "checkpoints" / "step_00000002"
    model, manifest = folder / "model.pt", folder / "manifest.json"
    content = bytearray(model.read_bytes())
    content[5000] ^= 1
    match damage:
        case "truncated":
            os.truncate(model, 5000)
        case "altered":
            model.write_bytes(content)
        case "missing":
            model.unlink()
        case "no manifest":
            manifest.unlink()
        case _:
            manifest.write_text(MANIFESTS[damage](json.loads(manifest.read_text())))
    check_newest(tmp_path, {1})
    _, passed_over = checkpoints(tmp_path).newest()
    assert len(passed_over) == 1 and "step_00000002" in passed_over[0]
    save(tmp_path, 2)  # the run resumes from 1 and reaches 2 again
    check_newest(tmp_path, {2})


def test_folders_that_only_have_a_checkpoints_name_are_skipped(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    (folder / "step_00000002").write_text("a file")
    (folder / "step_00000003").symlink_to(folder / "step_00000001")
    (folder / "step_00000004").symlink_to("nowhere")
    (folder / "step_00000005").mkdir()
    (folder / "step_00000005" / "manifest.json").mkdir()
    check_newest(tmp_path, {1})
    _, passed_over = checkpoints(tmp_path).newest()
    assert len(passed_over) == 4
    for step in (2, 3, 4, 5):
        save(tmp_path, step)
        check_newest(tmp_path, {step})


def test_a_failing_disk_is_named_and_leaves_nothing_behind(tmp_path):
    save(tmp_path, 1)

    def refuse(folder: Path) -> None:
        (folder / "half.pt").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match="checkpoints: cannot be written .No space left on device.; free disk space"):
        checkpoints(tmp_path).save(2, {"step": 2}, refuse)
    assert [path.name for path in (tmp_path / "checkpoints").glob("step_*")] == ["step_00000001"]
    save(tmp_path, 2)
    check_newest(tmp_path, {2})


def test_the_weights_folder_always_has_complete_files(tmp_path):
    best = tmp_path / "best"

    def write(text: str):
        def files(folder: Path) -> None:
            (folder / "config.json").write_text(json.dumps("config"))
            (folder / "model.safetensors").write_text(text * 1000)

        return lambda: write_files(best, files)

    write("old")()
    kills = 0
    while run_and_kill(write("new"), kills + 1):
        kills += 1
        assert (best / "model.safetensors").read_text() in ("old" * 1000, "new" * 1000)
        write("old")()
        assert sorted(p.name for p in best.iterdir()) == ["config.json", "model.safetensors"]
    assert kills >= 5
    assert (best / "model.safetensors").read_text() == "new" * 1000
