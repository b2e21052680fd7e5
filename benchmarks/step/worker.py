"""A training step in its own process, paused while another candidate is measured.

Each candidate thus has its own memory, and prefetching costs only the candidate that prefetches. Requests and replies
are lines of JSON on stdin and stdout: {"do": "run" | "phases" | "profile", "steps": n, ...}; the process sends the
first reply when it is ready.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[2])  # the project's root instead of this file's own folder

from benchmarks.step.job import Job
from unisign_fast.pipelines.errors import InputError

ROOT = Path(__file__).parents[2]


class Worker:
    """A process for `job`, with the code of the project in `tree`; use it in a `with` block."""

    def __init__(self, job: Job, tree: Path = ROOT):
        self.name = f"the {job.candidate} step in {tree}"
        self._command = [sys.executable, str(tree / "benchmarks" / "step" / "worker.py"), json.dumps(asdict(job))]
        self._tree, self._process = tree, None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    def ask(self, do: str, **arguments: object) -> dict:
        """The reply to a request; between requests the process is paused. Raises InputError if it ends."""
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
        """Send a signal to the process and its data-loading children."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)


def serve(job: Job) -> None:
    """Answer requests until stdin ends."""
    from benchmarks.step.candidates import CANDIDATES  # late: it imports torch, which the parent process does not need

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with replies

    def reply(value: dict) -> None:
        print(json.dumps(value), file=replies, flush=True)

    try:
        candidate = CANDIDATES[job.candidate](job)
        reply({})
        for line in sys.stdin:
            request = json.loads(line)
            reply(getattr(candidate, request.pop("do"))(**request))
    except InputError as error:
        reply({"refused": [error.where, error.problem, error.remedy]})
    except BrokenPipeError:
        pass  # the parent has stopped reading
    os._exit(0)  # without waiting for threads that read ahead


if __name__ == "__main__":
    serve(Job(**json.loads(sys.argv[1])))
