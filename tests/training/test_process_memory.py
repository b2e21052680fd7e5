"""After keep_memory, a process does not return a large tensor's memory to the system."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys
import torch
from unisign_fast.utils.process_memory import keep_memory
if sys.argv[1:] == ["keeping"]:
    keep_memory()
def resident_mib():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 2**20
before = resident_mib()
torch.ones(2**26)  # 256 MiB, freed at once
print(resident_mib() - before)
"""


def resident_after_free_mib(*arguments: str) -> int:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    on_cpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return int(
        subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2], env=on_cpu).stdout
    )


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads Linux's /proc")
def test_freed_memory_stays_with_the_process():
    assert resident_after_free_mib("keeping") > 200
    assert resident_after_free_mib() < 56
