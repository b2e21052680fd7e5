"""The training step of this tree against that of another commit, interleaved, on the same clips.

    python benchmarks/compare.py HEAD~3 --p-samp 0.1

The commit is unpacked into a temporary folder with the benchmarks of this tree, so that the same script measures both;
the repository is not touched.
"""

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

import tyro

from benchmarks.step.interleaved import compare_candidates
from benchmarks.step.options import StepOptions
from benchmarks.step.worker import ROOT
from unisign_fast.pipelines.errors import InputError
from unisign_fast.utils.console import run_command


def unpack(revision: str, folder: Path) -> str:
    """The files of a commit, its benchmarks replaced by this tree's, in `folder`; returns its short name."""
    git = ["git", "-C", str(ROOT)]
    named = subprocess.run(
        [*git, "rev-parse", "--verify", "--short", f"{revision}^{{commit}}"], capture_output=True, text=True
    )
    if named.returncode:
        raise InputError("REV", f"{revision} is not a commit of this repository", "see git log")
    files = subprocess.run([*git, "archive", named.stdout.strip()], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        archive.extractall(folder, filter="data")
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", dirs_exist_ok=True)
    return named.stdout.strip()


def compare(
    rev: tyro.conf.Positional[str],
    step: tyro.conf.OmitArgPrefixes[StepOptions] = StepOptions(),
    p_samp: float = 0.1,
    json: Path | None = None,
) -> None:
    """Measure this tree against another commit.

    Args:
        rev: The commit, by any name that git accepts. step: Measurement settings.
        p_samp: Share of frames whose hands are sampled.
        json: File for the rows.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        name = unpack(rev, tree)
        job = step.job(Path(folder), (p_samp,))
        compare_candidates({name: (job, tree), "this tree": (job, ROOT)}, step, "tree", json)


if __name__ == "__main__":
    run_command(compare)
