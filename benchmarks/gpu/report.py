"""The rows of gpu_call.py as Markdown: what was measured beside what was predicted."""

import json
from collections.abc import Iterator
from pathlib import Path

PREDICTED = Path(__file__).parents[1] / "results" / "gpu_call-predicted.json"
BOTH = "forward and backward"
SLOWER = ("eager", "compiled")
BASELINES = (*SLOWER, "library")


def report(rows: list[dict]) -> str:
    """Markdown: the kernels, the graph stack, the micro-batches, the card, the loss, and every failure."""
    named = {row["what"]: row for row in rows}
    predicted = {row["what"]: row for row in json.loads(PREDICTED.read_text())}
    parts = [
        _about(rows, named),
        _table(("operation", "correct", *_passes("us"), *_passes("of roofline"), *BASELINES), _kernels(rows, named)),
        "Columns eager, compiled and library: their time, forward and backward, over the kernel's.",
        _table(("graph stack", "us a frame", "predicted", "of roofline", *SLOWER), _stack(named, predicted)),
        _table(
            ("micro-batch", "ms", "GPU ms", "predicted", "launches", "predicted", "busy", "clips/s", "MFU", "peak GiB",
             "synchronizations"),
            _stage1(named, predicted),
        ),
        _table(
            ("RGB, 32 clips", "crops", "ms", "relative", "predicted", "us a crop", "predicted", "launches",
             "predicted", "busy", "MFU"),
            _rgb(named, predicted),
        ),
        *_costliest(named),
        _loss(named),
        "; ".join(_attention(rows)),
        "\n".join(_failures(rows)),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def _passes(unit: str) -> tuple[str, str]:
    return f"{unit}, forward", f"{unit}, {BOTH}"


def _table(columns: tuple[str, ...], lines: Iterator[tuple]) -> str:
    """Empty without lines."""
    rows = [columns, ("---",) * len(columns), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows) if len(rows) > 2 else ""


def _number(row: dict | None, name: str, form: str = ".3g", times: float = 1.0) -> str:
    """A value of a row; a dash where there is none."""
    value = (row or {}).get(name)
    return format(value * times, form) if isinstance(value, (int, float)) else "–"


def _ratio(row: dict | None, other: dict | None, name: str = "ms") -> str:
    """The first row's value over the other's."""
    values = [(one or {}).get(name) for one in (row, other)]
    return f"{values[0] / values[1]:.2f}" if all(values) else "–"


def _about(rows: list[dict], named: dict[str, dict]) -> str:
    shared = {name: rows[-1].get(name) for name in ("device", "commit", "date", "torch", "cuda", "triton")}
    values = [f"{name} {value}" for name, value in shared.items()]
    values.append(f"copy {_number(named.get('copy'), 'bytes_per_s', '.2f', 1e-12)} TB/s")
    values.append(f"bf16 product {_number(named.get('bf16 product'), 'flops_per_s', '.0f', 1e-12)} TFLOP/s")
    values.append(f"launch {_number(named.get('launch'), 'host_us', '.1f')} us")
    replaced = {row["by_the_reference"] for row in rows if "by_the_reference" in row}
    return "; ".join([*values, *(f"BY THE REFERENCE: {names}" for names in replaced)])


def _kernels(rows: list[dict], named: dict[str, dict]) -> Iterator[tuple]:
    """A line for each case that was checked or timed."""
    checked = [row["what"] for row in rows if row["section"] == "correctness" and "correct" in row]
    timed = [row["what"].rpartition(", fast, ")[0] for row in rows if row["section"] == "roofline"]
    for name in dict.fromkeys([*checked, *(name for name in timed if name and not name.startswith("graph stack"))]):
        check = named.get(name)
        correct = "–" if check is None or "correct" not in check else ("yes" if check["correct"] else "NO")
        fast = [named.get(f"{name}, fast, {direction}") for direction in ("forward", BOTH)]
        slower = [_ratio(named.get(f"{name}, {provider}, {BOTH}"), fast[1]) for provider in BASELINES]
        us = [_number(row, "ms", ".1f", 1e3) for row in fast]
        yield name, f"{correct}, {_number(check, 'worst_of_allowed', '.2f')}", *us, *map(_fraction, fast), *slower


def _fraction(row: dict | None) -> str:
    return _number(row, "roofline_fraction", ".0%")


def _stack(named: dict[str, dict], predicted: dict[str, dict]) -> Iterator[tuple]:
    names = dict.fromkeys(what.partition(",")[0] for what in named if what.startswith("graph stack"))
    for name in names:
        fast, *slower = (named.get(f"{name}, {provider}, {BOTH}") for provider in ("fast", *SLOWER))
        us = _number(fast, "us_an_item"), _number(predicted.get(name), "us_an_item")
        yield name, *us, _fraction(fast), *(_ratio(row, fast) for row in slower)


def _profile(name: str, named: dict[str, dict], predicted: dict[str, dict]) -> tuple[str, str, str]:
    """Launches, the predicted ones, and the busy share."""
    profile = named.get(f"{name}, profile")
    return (
        _number(profile, "launches", ".0f"), _number(predicted.get(name), "launches", ".0f"),
        _number(profile, "busy_share", ".0%"),
    )  # fmt: skip


def _stage1(named: dict[str, dict], predicted: dict[str, dict]) -> Iterator[tuple]:
    for name, row in named.items():
        if name.startswith("stage 1, ") and "clips_per_s" in row:
            profile, counted = named.get(f"{name}, profile"), predicted.get(name)
            times = (
                _number(row, "micro_batch_ms", ".1f"), _number(profile, "busy_ms", ".1f"),
                _number(counted, "gpu_ms", ".1f"),
            )  # fmt: skip
            rates = _number(row, "clips_per_s", ".0f"), _number(row, "mfu", ".1%"), _number(row, "peak_gib", ".0f")
            waits = _number(named.get(f"{name}, synchronisations"), "count", ".0f")
            yield name, *times, *_profile(name, named, predicted), *rates, waits


def _rgb(named: dict[str, dict], predicted: dict[str, dict]) -> Iterator[tuple]:
    pose = predicted.get("RGB at 0", {}).get("gpu_ms", 0)
    for name, row in named.items():
        if name.startswith("RGB at ") and "crops" in row:
            counted = predicted.get(name)
            a_crop = (counted["gpu_ms"] - pose) / counted["crops"] if counted and counted["crops"] else None
            yield (
                name, row["crops"], _number(row, "ms", ".1f"), _number(row, "relative", ".2f"),
                _ratio(counted, predicted.get("RGB at 0"), "gpu_ms"), _number(row, "us_a_crop", ".1f"),
                _number({"us": a_crop}, "us", ".1f", 1e3), *_profile(name, named, predicted),
                _number(row, "mfu", ".1%"),
            )  # fmt: skip


def _costliest(named: dict[str, dict]) -> Iterator[str]:
    """The kernels that take most of a micro-batch: of Stage 1's largest, and of RGB."""
    profiles = [row for what, row in named.items() if what.startswith("stage 1, ") and "costliest" in row][-1:]
    profiles += [row for what, row in named.items() if what == "RGB at 0.1, profile" and "costliest" in row]
    for row in profiles:
        lines = ((kernel[:60].replace("|", "/"), calls, f"{ms:.2f}") for kernel, calls, ms in row["costliest"][:10])
        yield _table((f"costliest of {row['what']}", "calls", "ms"), lines)


def _attention(rows: list[dict]) -> Iterator[str]:
    """Milliseconds of each backend, or that it refuses."""
    for row in rows:
        if row["what"].startswith("sdpa "):
            yield f"{row['what']}: " + (f"{_number(row, 'ms', '.2f')} ms" if "ms" in row else "refused")


def _failures(rows: list[dict]) -> Iterator[str]:
    for row in rows:
        if "error" in row and not row["what"].startswith("sdpa "):
            yield f"- FAILED {row['section']}, {row['what']}: {' '.join(row['error'].split())[:200]}"


def _loss(named: dict[str, dict]) -> str:
    row = named.get("loss in bf16")
    if row is None or "error" in row:
        return ""
    falls = "falls" if row["falls"] else "DOES NOT FALL"
    return f"Loss in bf16, {row['steps']} steps: {row['first']} to {row['last']}, {falls}."
