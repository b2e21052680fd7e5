"""One trial of the faults of corpus making, in a separate process, because it forks drivers."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="bash launch/install.sh curation")
def test_a_disturbed_corpus_is_the_undisturbed_one(tmp_path):
    line = [sys.executable, ROOT / "benchmarks/faults.py", "curation", "--minutes", "0", "--seed", "1"]
    done = subprocess.run([*line, "--json", tmp_path / "rows.json"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert sum(sum(row["outcomes"].values()) for row in rows) >= 10
