"""Training faults of disks, data and files: full, read-only, moved, replaced, cut short, flipped, deleted."""

import ctypes
import os
import resource
import shutil
from functools import partial

from benchmarks.faults_training_starts import FINISHED, STOPPED_BY_INPUT, Trial


def disk_full(trial: Trial) -> None:
    trial.sometimes_from_the_start()
    start = trial.start(partial(_limit_file_size, size=int(2 ** trial.rng.uniform(12, 18.5))))
    trial.expect(start, FINISHED, STOPPED_BY_INPUT)


def _limit_file_size(rank: int, size: int) -> None:
    """A write beyond the limit fails as on a full disk, but with another errno."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def read_only(trial: Trial) -> None:
    folder = trial.rng.choice([trial.run, trial.run / "checkpoints", trial.run / "tensorboard", trial.run / "best"])
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    start = trial.start(_drop_capabilities)
    try:
        trial.expect(start, FINISHED, STOPPED_BY_INPUT)
    finally:
        for path in [path for path in [folder, *folder.rglob("*")] if path.exists()]:
            path.chmod(0o755 if path.is_dir() else 0o644)


def _drop_capabilities(rank: int) -> None:
    """Make file permissions apply to root, too."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3 of capset(2)
    assert ctypes.CDLL(None).capset(header, none) == 0


# Data and layout ------------------------------------------------------------------------------------------------------


def store_moved(trial: Trial) -> None:
    before, trial.store = trial.store, trial.folder / "another place" / "store"
    trial.store.parent.mkdir()
    before.rename(trial.store)


def other_data(trial: Trial) -> None:
    """Another store at the path of the first one, which later returns."""
    aside = trial.store.with_name("aside")
    trial.store.rename(aside)
    shutil.copytree(trial.folder.parent / "other store", trial.store)
    trial.expect(trial.start(), STOPPED_BY_INPUT)
    shutil.rmtree(trial.store)
    aside.rename(trial.store)


def other_ranks(trial: Trial) -> None:
    trial.ranks = 3 - trial.ranks


def other_stage(trial: Trial) -> None:
    trial.options = [*trial.options, "--zero-stage", str(trial.rng.choice([0, 2, 3]))]


# Damaged run folders --------------------------------------------------------------------------------------------------

_DAMAGED = ("checkpoints/*/*", "tokenizer/*", "settings.json", "best/*")


def cut(trial: Trial) -> None:
    path = trial.rng.choice(trial.files(*_DAMAGED, "log.jsonl"))
    os.truncate(path, trial.rng.randrange(path.stat().st_size))


def flipped(trial: Trial) -> None:
    path = trial.rng.choice(trial.files(*_DAMAGED))
    content = bytearray(path.read_bytes())
    content[trial.rng.randrange(len(content))] ^= 1 << trial.rng.randrange(8)
    path.write_bytes(content)


def deleted(trial: Trial) -> None:
    trial.rng.choice(trial.files(*_DAMAGED, "checkpoints/latest", "lock")).unlink()


def tokenizer_damaged(trial: Trial) -> None:
    folder = trial.run / "tokenizer"
    file = folder / "spiece.model"
    match trial.rng.randrange(5):
        case 0:
            file.write_bytes(b"")
        case 1:
            file.write_bytes(trial.rng.randbytes(file.stat().st_size))
        case 2:
            file.write_text("<!DOCTYPE html><html></html>")
        case 3:
            shutil.rmtree(folder)
        case 4:
            shutil.rmtree(folder)
            folder.write_text("a file")


def strange_checkpoints(trial: Trial) -> None:
    """Files and links with the name of a checkpoint, and manifests of the wrong type."""
    folder = trial.run / "checkpoints"
    match trial.rng.randrange(4):
        case 0:
            (folder / "step_00000099").write_text("no folder")
        case 1:
            (folder / "step_00000098").symlink_to("nowhere")
        case 2:
            (folder / "step_00000097").mkdir()
            (folder / "step_00000097" / "manifest.json").write_text("[" * 100_000)
        case 3:
            (folder / "step_00000096").mkdir()
            values = [
                '{"state": null, "files": {}}',
                '{"state": {}, "files": {"a": 7}}',
                "7",
                '"x"',
                '{"state": 1e999}',
            ]
            (folder / "step_00000096" / "manifest.json").write_text(trial.rng.choice(values))
