"""Everything that only a GPU can tell, in one call of less than eight minutes on a host without a network.

    python benchmarks/gpu_call.py --out FOLDER --commit $(git rev-parse --short HEAD)
    python benchmarks/gpu_call.py --out FOLDER --dry-run     all of it at toy size on a CPU, in a few minutes

Needs Python, torch, triton, transformers, numba, numpy, huggingface-hub, safetensors, sentencepiece and nothing else of
the project's dependencies. Each section runs in a process of its own with a deadline, and its rows are written to
FOLDER/SECTION.json one by one, so that a crash, a wrong kernel or the end of the call costs nothing that was measured
before. FOLDER/rows.json has all rows; failures are rows too.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

SECTIONS = {  # deadline in seconds on a GPU, the start of the process included
    "ceilings": 35,
    "correctness": 85,
    "stage1": 120,
    "roofline": 110,
    "rgb": 80,
    "loss": 50,
}
SHARED = ("device", "torch", "commit", "date", "cuda", "triton", "transformers", "dry_run")  # what every row names
DRY_SECONDS = 1800  # of each section in a dry run: only guards against a hang
EXIT_SECONDS = 5  # left to a process for ending on its own before its deadline


def deadline(section: str, dry: bool) -> int:
    """Seconds that a section may take."""
    return DRY_SECONDS if dry else SECTIONS[section]


def run_section(name: str, folder: Path, dry: bool) -> None:
    """Run a section in this process."""
    from benchmarks.gpu import ceilings, operations, step
    from benchmarks.gpu.device import Rows, gpu_sizes, toy_sizes

    sections = {
        "ceilings": ceilings.ceilings,
        "correctness": operations.correctness,
        "stage1": step.stage1,
        "roofline": operations.roofline,
        "rgb": step.rgb,
        "loss": step.falling_loss,
    }
    rows = Rows(folder / f"{name}.json", name, deadline(name, dry) - EXIT_SECONDS, dry)
    with rows.guard(name):
        sections[name](rows, toy_sizes() if dry else gpu_sizes())


def call(folder: Path, chosen: list[str], dry: bool) -> list[dict]:
    """Run the sections one after the other; all rows, a row also for a section that ended badly."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        (folder / f"{name}.json").unlink(missing_ok=True)
    rows = []
    for name in chosen:
        begin = time.monotonic()
        command = [sys.executable, __file__, "--section", name, "--out", str(folder), *(["--dry-run"] if dry else [])]
        process = subprocess.Popen(command, start_new_session=True)
        try:
            status = process.wait(deadline(name, dry))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = "killed at its deadline"
        file = folder / f"{name}.json"
        rows += json.loads(file.read_text()) if file.exists() else []
        seconds = time.monotonic() - begin
        named = next((row for row in reversed(rows) if "device" in row), {})
        shared = {key: named.get(key, "unknown") for key in SHARED}
        rows.append({"section": name, "what": "whole section", "status": status, "seconds": seconds} | shared)
        (folder / "rows.json").write_text(json.dumps(rows, indent=1))
        print(f"== {name}: {seconds:.0f} s, status {status}", flush=True)
    return rows


def table(rows: list[dict]) -> str:
    """A line for each row, without what all rows share."""
    lines = []
    for row in rows:
        hidden = ("section", "what", *SHARED)
        values = {k: v for k, v in row.items() if k not in hidden and not isinstance(v, (list, dict))}
        cells = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {str(v)[:90]}" for k, v in values.items())
        lines.append(f"{row['section'][:11]:11}  {row['what'][:64]:64}  {', '.join(cells)}")
    return "\n".join(lines)


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_call"), help="folder for the rows")
    parser.add_argument("--commit", default="", help="the commit, for a host that has no .git")
    parser.add_argument("--dry-run", action="store_true", help="at toy size on a CPU")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections only")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--check", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")])
    if given.commit:
        os.environ["GPU_CALL_COMMIT"] = given.commit
    if given.check:
        from benchmarks.gpu import operations
        from benchmarks.gpu.device import gpu_sizes, toy_sizes

        for name in given.check:
            operations.check_one(name, toy_sizes() if given.dry_run else gpu_sizes())
        return None
    if given.section:
        return run_section(given.section, given.out, given.dry_run)
    if not given.dry_run:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("error: gpu_call.py: PyTorch finds no GPU; try it on a CPU with --dry-run")
    rows = call(given.out, given.only or list(SECTIONS), given.dry_run)
    print(table(rows))


if __name__ == "__main__":
    main()
