"""Where and when a row was measured."""

import subprocess
from contextlib import suppress
from datetime import date
from os import sched_getaffinity
from pathlib import Path


def on_gpu() -> bool:
    """Whether there is a GPU."""
    import torch  # late: it takes seconds, and --help needs none of it

    return torch.cuda.is_available()


def about() -> dict[str, str]:
    """The machine, torch's version, the commit ("" without a repository), and the date."""
    import torch  # late, as in `on_gpu`

    cores = f"{len(sched_getaffinity(0))} CPU cores"
    device = torch.cuda.get_device_name() if on_gpu() else cores
    return {"device": device, "torch": torch.__version__, "commit": commit(), "date": date.today().isoformat()}


def commit() -> str:
    """The commit checked out, "" where there is no repository or no git."""
    command = ["git", "describe", "--always", "--dirty"]
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    return ""
