"""Writes the report of a run, or of a release of curate.py: one HTML file that any browser opens.

python launch/report.py runs/demo/slt-rgb
python launch/report.py data/mine/current
"""

from pathlib import Path

import tyro

from unisign_fast.pipelines.errors import InputError
from unisign_fast.utils.console import run_command


def report(run: tyro.conf.Positional[Path], clips: int = 5, out: Path | None = None, faces: bool = False) -> None:
    """Write the report of a run: settings, commit and data, scores beside the paper's, curves, all predictions.

    The worst and the best clips play as a skeleton with the sampled hand crops and, with an RGB branch, its gates and
    sampling points. The page says what the run lacks. docs/evaluation.md explains every part.

    Args:
        run: Folder of a run, finished or not; or of a release, whose page shows yield, reasons, lag and texts.
        clips: Number of worst clips to show, and of best clips.
        out: HTML file to write; by default report.html in the run's folder.
        faces: Lay the skeleton over the video. Without this option the report shows faces as keypoints only.
    """
    if clips < 0:
        raise InputError("--clips", f"{clips} is not valid", "give 0 or more")
    if (run / "release.json").is_file():
        from unisign_fast.report.corpus_page import write_corpus_page

        out = out or run.resolve().with_suffix(".html")  # beside the release, which never changes
        write_corpus_page(run, out)
    else:
        from unisign_fast.report.page import write_report  # late import: torch takes seconds, which would slow --help

        out = out or run / "report.html"
        write_report(run, out, clips, faces)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(report, examples=__doc__)
