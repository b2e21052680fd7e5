"""benchmarks/scaling.py: the predicted traffic of a rank equals what DeepSpeed sends, and the predictions follow from
it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from toy_training import TWO_RANKS, run_script

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.scaling_runs import (
    COLLECTIVES,
    DEMO_TRAIN,
    ZERO_STAGES,
    CollectiveCount,
    deepspeed_step,
    large_share,
    make_batch,
    make_model,
    moment_reductions,
    start_ranks,
)

MICRO_BATCHES = 3
FLOAT32 = 4  # bytes; the demo recipe trains in it


def count_in_ranks(out: Path) -> None:
    """Run by each of two ranks: bytes and calls of the collectives in a step at every ZeRO stage."""
    ranks = start_ranks()
    result = []
    for zero in ZERO_STAGES:
        step = deepspeed_step(replace(DEMO_TRAIN, zero_stage=zero), ranks)
        step([make_batch(1)])  # the first step synchronises more
        with CollectiveCount() as counted:
            step([make_batch(1)] * MICRO_BATCHES)
        result.append({"bytes": counted.bytes, "calls": counted.calls})
    if ranks.is_first:
        out.write_text(json.dumps(result))
    ranks.leave()


@pytest.fixture(scope="module")
def counted(tmp_path_factory) -> list[dict]:
    out = tmp_path_factory.mktemp("scaling") / "counted.json"
    status, output = run_script([*TWO_RANKS, __file__, str(out)])
    assert status == 0, output[-4000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("zero", ZERO_STAGES)
def test_a_rank_sends_what_is_predicted(counted, zero):
    model = make_model()
    whole = FLOAT32 * sum(parameter.numel() for parameter in model.parameters())
    gradients, weights = COLLECTIVES[zero].passes(MICRO_BATCHES, large_share(model))
    sent = counted[zero]["bytes"]
    name = {"all-reduce": "allreduce", "reduce-scatter": "reduce_scatter_base"}[COLLECTIVES[zero].gradients]
    assert sent[name] == pytest.approx(gradients * whole, rel=0.01), "batch statistics are the rest"
    assert sent.get("allgather_base", 0) == pytest.approx(weights * whole, rel=0.001)


def test_batch_statistics_are_reduced_as_often_as_predicted(counted):
    expected = MICRO_BATCHES * moment_reductions(make_model())
    assert all(expected < result["calls"]["allreduce"] <= expected + 8 for result in counted)


def scaling(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "benchmarks/scaling.py", *arguments]
    environment = {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=100)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory) -> tuple[str, list[dict]]:
    out = tmp_path_factory.mktemp("predicted") / "rows.json"
    done = scaling("--tflops", "400", "--json", str(out))
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())["rows"]


def test_assumptions_are_printed(predicted):
    said, _ = predicted
    for words in (
        "400 TFLOP/s",
        "587.7 M parameters",
        "592.6 M",
        "80% of that",
        "Ethernet",
        "left out",
        "not measured",
    ):
        assert words in said, words


def test_efficiency_falls_with_gpus_and_overlap_never_harms(predicted):
    _, rows = predicted
    places = {(r["scaling"], r["network"], r["stage"], r["zero"], r["gpus"]): r for r in rows}
    assert all(row["efficiency"] == 1 for row in rows if row["gpus"] == 1)
    assert all(0 < row["efficiency"] <= row["efficiency_overlapped"] <= 1 for row in rows)
    for scaling_kind in ("strong", "weak"):
        for zero in ZERO_STAGES:
            sizes = [("node", 2), ("node", 8), ("InfiniBand", 16), ("Ethernet", 16)]
            result = [places[scaling_kind, network, 1, zero, gpus]["efficiency"] for network, gpus in sizes]
            assert result == sorted(result, reverse=True)
    ring = places["weak", "node", 1, 0, 8]["gb_sent"]
    assert ring == pytest.approx(2 * 7 / 8 * 2 * 0.587747368)  # two passes of 7/8, two bytes a parameter
    assert places["weak", "node", 1, 3, 8]["state_gb"] == pytest.approx(18 * 0.587747368 / 8)


def test_there_is_no_row_with_less_than_a_clip_a_gpu(predicted):
    _, rows = predicted
    most = max(row["gpus"] for row in rows if row["stage"] == 3 and row["scaling"] == "strong")
    assert most == 32, "stage 3 has 32 clips a step"
    assert max(row["gpus"] for row in rows if row["stage"] == 3 and row["scaling"] == "weak") == 64


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--tflops", "0"], "--tflops: 0.0 is not valid; give a number above 0"),
        (["--measure", "--overhead"], "--overhead: does not go with --measure; give one of them"),
    ],
)
def test_wrong_options_are_told_in_one_line(arguments, words):
    done = scaling(*arguments)
    assert done.returncode == 2 and done.stderr == f"error: {words}\n"


if __name__ == "__main__":
    count_in_ranks(Path(sys.argv[1]))
