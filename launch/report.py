"""Writes the report of a run: one HTML file that opens in a browser, without a network.

python launch/report.py runs/demo/slt-rgb
"""

from pathlib import Path

import tyro

from unisign_fast.pipelines.errors import InputError
from unisign_fast.utils.console import run_command


def report(run: tyro.conf.Positional[Path], clips: int = 5, out: Path | None = None, faces: bool = False) -> None:
    """Write the report of a run: training curves, scores beside the paper's, its worst and best clips.

    Each clip shows prediction and reference, the moving skeleton and hand crops, which frames were sampled, and, with
    an RGB branch, gates and sampling points. What the run lacks is said on the page.

    Args:
        run: Folder of the run, finished or not.
        clips: How many of the worst clips, and of the best.
        out: HTML file to write; by default report.html in the run's folder.
        faces: Show the video frames too, small. Without it faces are drawn as keypoints only.
    """
    if clips < 0:
        raise InputError("--clips", f"{clips} is not possible", "give 0 or more")
    from unisign_fast.report.page import write_report  # late: torch takes seconds that --help need not

    out = out or run / "report.html"
    write_report(run, out, clips, faces)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(report, examples=__doc__)
