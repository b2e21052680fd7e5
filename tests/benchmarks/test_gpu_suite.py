"""The GPU suite resumes: a call that finished at this commit on this GPU is not repeated, one that failed is."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Replaces Python: names a GPU, logs its arguments, and fails while the file "broken" exists.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
  *get_device_name*) echo Test-GPU ;;
  -c*) exit 0 ;;
  *) echo "$1" >> "$LOG"; [ ! -e broken ] || [ "$1" != benchmarks/data_path.py ] ;;
esac
"""


def test_a_suite_that_was_cut_short_goes_on(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "gpu_suite.sh", tmp_path / "benchmarks")
    fake = tmp_path / ".venv" / "bin" / "python"
    fake.parent.mkdir(parents=True)
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)
    log = tmp_path / "log"

    def suite() -> tuple[int, list[str]]:
        """The status, and what was run."""
        log.write_text("")
        done = subprocess.run(
            ["bash", "benchmarks/gpu_suite.sh"], cwd=tmp_path, env=os.environ | {"LOG": str(log)}, capture_output=True
        )
        return done.returncode, log.read_text().split()

    (tmp_path / "broken").touch()
    status, first = suite()
    assert status == 1 and "benchmarks/kernels.py" in first and first[-1] == "benchmarks/data_path.py"
    (tmp_path / "broken").unlink()
    assert suite() == (0, ["benchmarks/data_path.py"])
    assert suite() == (0, [])
