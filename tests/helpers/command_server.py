"""Commands run in processes that a server forks, and the store and the run that their tests share.

Importing what training needs takes seconds, so the server imports it once and forks for every command.
"""

import gc
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from toy_training import OF_ONE_PROCESS, ROOT
from video_files import write_video

from unisign_fast.pipelines.store.keypoint_store import KeypointStoreWriter

SIDE, FRAMES, CLIPS = 64, 12, 24
TEXTS = ["我喜欢茶。", "他喜欢水。", "我明天去学校。"]
STREAMS = ("in", "out", "err")  # files in the working folder of a command
# One epoch of three steps, every step logged.
SHORT = ["--epochs", "1", "--clips-per-step", "8", "--log-every-steps", "1"]


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    output: str
    error: str


def serve() -> None:
    """Run the commands that arrive on stdin, each in a fork of this process; print their exit statuses."""
    import deepspeed  # noqa: F401
    from transformers import MT5ForConditionalGeneration  # noqa: F401

    import unisign_fast.training.run  # noqa: F401

    gc.freeze()  # else every child spends a second on its last garbage collection
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.alarm(100)  # a command that hangs must not take the tests with it
            folder, *sys.argv = json.loads(line)
            os.chdir(folder)
            for number, name in enumerate(STREAMS):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
            runpy.run_path(sys.argv[0], run_name="__main__")
            sys.exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


Command = Callable[..., Ended]  # (working folder, script of launch/, arguments...)


@contextmanager
def command_server(hub: Path) -> Iterator[Command]:
    """Starts the server and yields the function that runs a command on it; `hub` is an empty cache of the hub."""
    inherited = {name: value for name, value in os.environ.items() if name not in OF_ONE_PROCESS}
    ours = {
        "PYTHONPATH": os.environ["PYTHONPATH"],
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
    }
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(hub), "COLUMNS": "120"}
    server = subprocess.Popen(
        [sys.executable, __file__],
        env={**inherited, **ours, **offline},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def run(folder: Path, script: str, *arguments: object) -> Ended:
        line = json.dumps([str(folder), str(ROOT / "launch" / script), *map(str, arguments)])
        print(line, file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return Ended(status, *((folder / name).read_text(encoding="utf-8") for name in STREAMS[1:]))

    try:
        yield run
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def assert_refused(ended: Ended, *words: object) -> None:
    """Exit status 2 and one line on stderr: where, what is wrong, and what to do."""
    assert ended.status == 2, ended
    assert re.fullmatch(r"error: [^\n]+: [^\n]+; [^\n]+\n", ended.error), ended.error
    assert all(str(word) in ended.error for word in words), ended.error


def write_store(folder: Path, splits: tuple[str, ...] = ("train",), gloss: str = "我 茶") -> Path:
    """A store of short clips, each with its video, dealt to the splits in turn."""
    rng = np.random.default_rng(0)
    (folder / "videos").mkdir(parents=True)
    pictures = [np.full((SIDE, SIDE, 3), 10 * i, np.uint8) for i in range(FRAMES)]
    with KeypointStoreWriter(folder, {"estimator": "test", "version": "1", "coordinates": "fractions"}) as writer:
        for i in range(CLIPS):
            write_video(folder / "videos" / f"{i}.mp4", pictures)
            keypoints = rng.uniform(0.2, 0.8, (FRAMES, 133, 3))
            keypoints[:, 91:, :2] = 0.5 + rng.uniform(-0.15, 0.15, (FRAMES, 42, 2))
            writer.add(
                keypoints,
                id=f"clip{i}",
                split=splits[i % len(splits)],
                language="zh",
                text=TEXTS[i % len(TEXTS)],
                gloss=gloss,
                fps=25.0,
                width=SIDE,
                height=SIDE,
                source=f"videos/{i}.mp4",
            )
    return folder


def train_stage1(command: Command, store: Path, folder: Path) -> Path:
    """A finished run of stage 1 in `folder`."""
    ended = command(folder, "pretrain.py", "--stores", store, "--out", "stage1", *SHORT, "--resume", "never")
    assert ended.status == 0 and ended.error == "", ended
    return folder / "stage1"


if __name__ == "__main__":
    serve()
