"""A process that keeps its memory touches it for the first time only once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, statistics, sys
import torch
from unisign_fast.utils.process_memory import keep_memory
if sys.argv[1:] == ["keeping"]:
    keep_memory()
faults = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**26)  # 256 MiB, more than glibc would ever keep by itself
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
# The first time touches new memory, and so does one that finds a small object in the way of the place before.
print(statistics.median_low(faults))
"""


def faults_of_one_time(*arguments: str) -> int:
    run = [sys.executable, "-c", SCRIPT, *arguments]
    on_cpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return int(subprocess.run(run, check=True, capture_output=True, cwd=Path(__file__).parents[2], env=on_cpu).stdout)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="the kernel's page faults are Linux's")
def test_memory_that_was_freed_is_not_touched_anew():
    assert faults_of_one_time("keeping") < 50
    assert faults_of_one_time() > 50
