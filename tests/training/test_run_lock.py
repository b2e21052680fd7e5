"""One training at a time in a folder; a lock left behind by a dead process is ignored."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from unisign_fast.pipelines.errors import InputError
from unisign_fast.training.run_lock import locked
from unisign_fast.utils.distributed import Ranks

ONE = Ranks(0, 1, torch.device("cpu"))
HOLD = """
import sys, time, torch
from pathlib import Path
from unisign_fast.training.run_lock import locked
from unisign_fast.utils.distributed import Ranks
with locked(Path(sys.argv[1]), Ranks(0, 1, torch.device("cpu"))):
    print("held", flush=True)
    time.sleep(100)
"""


def test_the_second_start_says_who_has_it_and_death_frees_it(tmp_path):
    run = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, env=os.environ)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match=f"run: is in use: process {holder.pid} on .* has been training in it since "):
        with locked(run, ONE):
            pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (run / "lock").exists()
    with locked(run, ONE):
        pass
    assert list(run.iterdir()) == []


def test_a_folder_that_stays_empty_is_removed(tmp_path):
    with locked(tmp_path / "runs" / "demo", ONE):
        assert (tmp_path / "runs" / "demo" / "lock").exists()
    assert not (tmp_path / "runs").exists()
    with locked(tmp_path / "runs" / "demo", ONE):
        (tmp_path / "runs" / "demo" / "log.jsonl").touch()
    assert [path.name for path in (tmp_path / "runs" / "demo").iterdir()] == ["log.jsonl"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/run: cannot be written"):
        with locked(tmp_path / "file" / "run", ONE):
            pass
