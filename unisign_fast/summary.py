"""The scores and speeds of finished runs, as one table."""

import json
from pathlib import Path
from statistics import median

from rich.table import Table

from pipelines.errors import InputError
from unisign_fast.evaluation import MAIN_METRIC
from unisign_fast.telemetry import read_events


def training_speed(run: Path) -> float | None:
    """Median clips/s of a run's logged steps, from its log; None before the first."""
    rates = [event["clips_per_s"] for event in read_events(run / "log.jsonl") if event.get("event") == "step"]
    return median(rates) if rates else None


def summary_table(root: Path) -> Table:
    """One line a fine-tuning run below `root` that has test scores, and clips/s of its stages.

    Raises InputError if there is no such run.
    """
    runs = sorted(path.parent for path in root.glob("*/scores-test.json"))
    if not runs:
        raise InputError(root, "no run there has test scores", "train with launch/finetune.py first")
    table = Table(title=str(root))
    for column in ("task", "modality", "metric", "score", "clips", "clips/s stage 1", "stage 2", "stage 3"):
        table.add_column(column, justify="left" if column in ("task", "modality", "metric") else "right")
    for run in runs:
        settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))
        scores = json.loads((run / "scores-test.json").read_text(encoding="utf-8"))
        task, rgb = settings["data"]["task"], settings["data"]["p_samp"] > 0
        metric = MAIN_METRIC[task][0]
        before = [training_speed(root / f"stage{stage}") if (root / f"stage{stage}").is_dir() else None for stage in (1, 2)]
        speeds = [before[0], before[1] if rgb else None, training_speed(run)]
        table.add_row(
            task.upper(), "RGB-pose" if rgb else "pose-only", f"{metric} ({scores['signature']})",
            f"{scores['values'][metric]:.2f}", str(scores["count"]), *("-" if s is None else f"{s:.1f}" for s in speeds),
        )
    return table
