"""Everything that only a GPU can tell, in one call of eight minutes at most on a host without a network.

    python benchmarks/gpu_call.py --out FOLDER --commit $(git rev-parse --short HEAD)
    python benchmarks/gpu_call.py --out FOLDER --dry-run     all of it at toy size on a CPU, in a few minutes
    python benchmarks/gpu_call.py --table FOLDER/rows.json   what was measured beside what was predicted, in Markdown
    python benchmarks/gpu_call.py --predict FILE             counts what is predicted, without a GPU

Needs Python, torch, triton, transformers, numba, numpy, huggingface-hub, safetensors, sentencepiece and nothing else of
the project's dependencies. Each section runs in a process of its own with a deadline, and its rows are written to
FOLDER/SECTION.json one by one, so that a crash, a wrong kernel or the end of the call costs nothing that was measured
before. After an error from which CUDA does not recover, another process goes on with what the section has not yet
tried. FOLDER/rows.json has the rows of all sections that have ended; failures are rows too.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

TOTAL_SECONDS = 470  # on a GPU
SECTIONS = {  # seconds that each takes at most on a GPU, the start of its process included; the last, what is left
    "ceilings": 45,
    "correctness": 110,
    "stage1": 90,
    "loss": 40,
    "rgb": 75,
    "roofline": TOTAL_SECONDS,
}
SHARED = ("device", "torch", "commit", "date", "cuda", "triton", "transformers", "dry_run")  # what every row names
DRY_SECONDS = 1800  # of each section in a dry run: only guards against a hang
EXIT_SECONDS = 5  # left to a process for ending on its own before its deadline
RESTART_SECONDS = 20  # the fewest that a section is started again for
BEGIN = time.monotonic()


def deadline(section: str, dry: bool) -> float:
    """Seconds that a section may take from now on."""
    return DRY_SECONDS if dry else min(SECTIONS[section], TOTAL_SECONDS - (time.monotonic() - BEGIN))


def run_section(name: str, folder: Path, seconds: float, dry: bool) -> None:
    """Run a section in this process."""
    from benchmarks.gpu import ceilings, operations, step
    from benchmarks.gpu.device import Rows, gpu_sizes, toy_sizes

    sections = {
        "ceilings": ceilings.ceilings,
        "correctness": operations.correctness,
        "stage1": step.stage1,
        "loss": step.falling_loss,
        "rgb": step.rgb,
        "roofline": operations.roofline,
    }
    wrong = operations.unusable(operations.earlier_rows(folder))
    operations.use_reference(wrong)
    replaced = {"by_the_reference": ", ".join(wrong)} if wrong else {}
    left = seconds - EXIT_SECONDS - (time.monotonic() - BEGIN)  # the imports have taken some
    rows = Rows(folder / f"{name}.json", name, left, dry, **replaced)
    with rows.guard(name):
        sections[name](rows, toy_sizes() if dry else gpu_sizes())


def section_command(name: str, folder: Path, seconds: float, dry: bool) -> list[str]:
    """What runs a section in a process of its own."""
    command = [sys.executable, __file__, "--section", name, "--seconds", str(seconds), "--out", str(folder)]
    return [*command, *(["--dry-run"] if dry else [])]


def finish(command: list[str], seconds: float) -> int | str:
    """Run a command, and end it and all processes that it has left behind; its status."""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return "killed at its deadline"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def call(folder: Path, chosen: list[str], dry: bool) -> list[dict]:
    """Run the sections one after the other; all rows, a row also for a section that ended badly."""
    from benchmarks.gpu.device import BROKEN

    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    (folder / "rows.json").write_text("[]")
    for name in chosen:
        begin, file = time.monotonic(), folder / f"{name}.json"
        file.unlink(missing_ok=True)
        seconds, status = deadline(name, dry), BROKEN
        while status == BROKEN and (left := seconds - (time.monotonic() - begin)) > RESTART_SECONDS:
            status = finish(section_command(name, folder, left, dry), left)
        rows += json.loads(file.read_text()) if file.exists() else []
        taken = time.monotonic() - begin
        named = next((row for row in reversed(rows) if "device" in row), {})
        shared = {key: named.get(key, "unknown") for key in SHARED}
        rows.append({"section": name, "what": "whole section", "status": status, "seconds": taken} | shared)
        (folder / "rows.json").write_text(json.dumps(rows, indent=1))
        file.unlink(missing_ok=True)  # few files come back from a GPU host
        print(f"== {name}: {taken:.0f} s, status {status}", flush=True)
    return rows


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_call"), help="folder for the rows")
    parser.add_argument("--commit", default="", help="the commit, for a host that has no .git")
    parser.add_argument("--dry-run", action="store_true", help="at toy size on a CPU")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections only")
    parser.add_argument("--table", type=Path, metavar="ROWS", help="print the Markdown tables of such rows instead")
    parser.add_argument("--predict", type=Path, metavar="FILE", help="count what is predicted, and write it, instead")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--check", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--compile", help=argparse.SUPPRESS)
    parser.add_argument("--compile-step", type=float, metavar="P_SAMP", help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")])
    for name in ("TRITON_INTERPRET", "UNISIGN_KERNELS"):
        os.environ.pop(name, None)
    if given.commit:
        os.environ["GPU_CALL_COMMIT"] = given.commit
    if given.section:
        return run_section(given.section, given.out, given.seconds, given.dry_run)
    if given.check or given.compile or given.compile_step is not None:
        return run_job(given.check or [], given.compile, given.compile_step, given.dry_run)
    if given.predict:
        from benchmarks.gpu.predictions import predict

        return predict(given.predict)
    from benchmarks.gpu.report import report

    if given.table:
        return print(report(json.loads(given.table.read_text())))
    if not given.dry_run:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("error: gpu_call.py: PyTorch finds no GPU; try it on a CPU with --dry-run")
    rows = call(given.out, given.only or list(SECTIONS), given.dry_run)
    (given.out / "table.md").write_text(report(rows) + "\n")
    print(report(rows))


def run_job(checked: list[str], compiled: str | None, p_samp: float | None, dry: bool) -> None:
    """In a process that the section of correctness has started."""
    if compiled:
        os.nice(10)  # the checks come first
    from benchmarks.gpu import operations, step
    from benchmarks.gpu.device import gpu_sizes, toy_sizes

    sizes = toy_sizes() if dry else gpu_sizes()
    for job in checked:
        operations.check_one(job, sizes)
    if p_samp is not None:
        step.compile_step(sizes, p_samp)
    if compiled:
        operations.compile_one(compiled, sizes)


if __name__ == "__main__":
    main()
