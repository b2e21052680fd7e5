"""Gain from RGB on signs that need it: word recognition with and without sampled hand crops, over several seeds.

    python benchmarks/rgb_gain.py --seeds 0 1 2 --json benchmarks/results/rgb_gain.json

Both candidates start from runs/demo/stage1 (deepspeed launch/pretrain.py). Pose-only is fine-tuned from there;
RGB-pose goes through stage 2 on words first, with seed 0 the demo's own. Eight of the demo's words (tag `needs_rgb`)
come in pairs that keypoints cannot tell apart.
"""

import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

from rich.console import Console
from rich.table import Table

from unisign_fast.evaluation.predictions import read_predictions, write_json
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.training.recipes import DEMO_CORPUS
from unisign_fast.training.settings import RUNS
from unisign_fast.utils.console import run_command

DEMO, ROOT = RUNS / "demo", RUNS / "rgb_gain"
START = DEMO / "stage1" / "last"
P_SAMP = 0.1  # the recipe's
GROUPS = {"yes": "signs made for RGB", "no": "other signs"}


def train(script: str, *options: object) -> None:
    """One training run in a process of its own; a finished one is left unchanged."""
    subprocess.run([sys.executable, f"launch/{script}.py", *map(str, options)], check=True)


def accuracy(run: Path) -> dict[str, float]:
    """Top-1 accuracy on the test split in percent, for each value of the tag `needs_rgb`."""
    needs_rgb = {clip.id: clip.tags["needs_rgb"] for clip in KeypointStore.open(DEMO_CORPUS / "words").clips}
    hits: dict[str, list[bool]] = {group: [] for group in GROUPS}
    for row in read_predictions(run / "predictions-test.jsonl"):
        hits[needs_rgb[row.id]].append(row.prediction == row.reference)
    return {group: 100 * mean(result) for group, result in hits.items()}


def train_pose(seed: int) -> Path:
    """The finished pose-only run."""
    run = ROOT / f"pose-seed{seed}"
    train("finetune", "--task", "islr", "--seed", seed, "--p-samp", 0, "--start-from", START, "--out", run)
    return run


def train_rgb(seed: int) -> Path:
    """The finished RGB-pose run."""
    stage2 = DEMO / "stage2" if seed == 0 else ROOT / f"stage2-seed{seed}"
    run = ROOT / f"rgb-seed{seed}"
    train("pretrain", "--stage", 2, "--seed", seed, "--start-from", START, "--out", stage2)
    train("finetune", "--task", "islr", "--seed", seed, "--start-from", stage2 / "last", "--out", run)
    return run


def rgb_gain(seeds: tuple[int, ...] = (0, 1, 2), json: Path | None = None) -> None:
    """Train both candidates for each seed and print the accuracies.

    Args:
        seeds: Seeds of stage 2 and of fine-tuning, two or more.
        json: File to write the numbers to.
    """
    if len(seeds) < 2:
        raise InputError("--seeds", "one has no spread", "give two or more")
    result: dict[str, list[dict[str, float]]] = {"pose-only": [], "RGB-pose": []}
    for seed in seeds:
        pose, rgb = (train_side(seed) for train_side in (train_pose, train_rgb))
        result["pose-only"].append(accuracy(pose))
        result["RGB-pose"].append(accuracy(rgb))
    table = Table(title=f"ISLR on the demo's test split, top-1 in percent, p_samp {P_SAMP}, seeds {list(seeds)}")
    table.add_column("modality")
    for name in GROUPS.values():
        table.add_column(name)
    for modality, rows in result.items():
        cells = []
        for group in GROUPS:
            values = [row[group] for row in rows]
            cells.append(f"{mean(values):.1f} ± {stdev(values):.1f} ({', '.join(f'{v:.1f}' for v in values)})")
        table.add_row(modality, *cells)
    Console().print(table)
    if json is not None:
        write_json(json, {"seeds": list(seeds), "p_samp": P_SAMP, "accuracy": result})


if __name__ == "__main__":
    run_command(rgb_gain)
