"""A recipe's training step in a process of its own, which stands still while it is another one's turn.

So memory is each recipe's own, and reading ahead costs the one that reads. Requests and replies are lines of JSON on
stdin and stdout: {"do": "run" | "stations" | "profile", "steps": n, ...}; the first reply comes when the process is
ready.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the project's root in the place of this file's own folder

from benchmarks.step_sides import SIDES, Job
from unisign_fast.pipelines.errors import InputError

ROOT = Path(__file__).parents[1]


class Worker:
    """A process for `job`, with the code of the project in `tree`; use it in a `with` block."""

    def __init__(self, job: Job, tree: Path = ROOT):
        self.name = f"the {job.side} recipe in {tree}"
        self._command = [sys.executable, str(tree / "benchmarks" / "step_worker.py"), json.dumps(asdict(job))]
        self._tree, self._process = tree, None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    def ask(self, do: str, **arguments: object) -> dict:
        """The reply to a request; the process runs in the meantime only. Raises what it ended with."""
        if self._process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._process = subprocess.Popen(self._command, cwd=self._tree, text=True, process_group=0, **pipes)
            self._reply()
        self._signal(signal.SIGCONT)
        print(json.dumps({"do": do} | arguments), file=self._process.stdin, flush=True)
        reply = self._reply()
        self._signal(signal.SIGSTOP)
        return reply

    def stop(self) -> None:
        """End the process; the next request starts another one."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.communicate()
            self._process = None

    def _reply(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            problem = f"ended with status {self._process.wait()}"
            raise InputError(self.name, problem, "see above; if it was killed, take smaller micro-batches")
        reply = json.loads(line)
        if "refused" in reply:
            raise InputError(*reply["refused"])
        return reply

    def _signal(self, number: signal.Signals) -> None:
        """To the process and those that read for it."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)


def serve(job: Job) -> None:
    """Answer requests until stdin ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply

    def reply(value: dict) -> None:
        print(json.dumps(value), file=replies, flush=True)

    try:
        side = SIDES[job.side](job)
        reply({})
        for line in sys.stdin:
            request = json.loads(line)
            reply(getattr(side, request.pop("do"))(**request))
    except InputError as error:
        reply({"refused": [error.where, error.problem, error.remedy]})
    except BrokenPipeError:
        pass  # nobody waits any more
    os._exit(0)  # threads that read ahead have more to do


if __name__ == "__main__":
    serve(Job(**json.loads(sys.argv[1])))
