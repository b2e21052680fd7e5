"""What every row says of where it was measured."""

import subprocess
from datetime import date
from os import sched_getaffinity
from pathlib import Path

import torch


def about() -> dict[str, str]:
    """The machine, torch's version, the commit, and the date."""
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    cores = f"{len(sched_getaffinity(0))} CPU cores"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cores
    return {"device": device, "torch": torch.__version__, "commit": commit, "date": date.today().isoformat()}
