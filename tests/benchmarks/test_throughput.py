"""The benchmarks of the training step: the published step beside ours, what they count, and the commands themselves."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unisign_fast.model.config import ModelConfig, MT5Shape
from unisign_fast.model.efficientnet import StochasticDepth
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.skeleton import PART_SLICES
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.text.tokenizer import Tokenizer, train_tokenizer
from unisign_fast.training.recipes import DEMO
from unisign_fast.utils.console import run_command

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.baseline.data import pad
from benchmarks.baseline.step import PublishedBatch, PublishedUniSign, published_batch
from benchmarks.compare import compare
from benchmarks.profile_step import profile_step
from benchmarks.step.data import StepTokenizer, made_store
from benchmarks.step.job import PHASES
from benchmarks.step.phases import PhaseClock
from benchmarks.step.synthetic import csl_news_lengths
from benchmarks.throughput import Row, throughput
from benchmarks.trim_gain import trim_gain
from unisign_fast.model.flops import forward_flops

COMMANDS = {"throughput": throughput, "profile_step": profile_step, "compare": compare}
SMALL = ["--recipe", "demo", "--clips", "8", "--clips-per-step", "4", "--clips-per-micro-batch", "2", "--trials", "1"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> KeypointStore:
    """Made clips with videos and crops, of the demo recipe's sizes."""
    return made_store(tmp_path_factory.mktemp("made") / "store", 4, DEMO.max_frames, True, DEMO.crop_size)


@pytest.fixture(scope="module")
def tokenizer(store, tmp_path_factory) -> Tokenizer:
    return StepTokenizer(
        train_tokenizer([clip.text for clip in store.clips], tmp_path_factory.mktemp("tokenizer")).path
    )


def test_help_needs_no_torch():
    """Importing torch takes seconds, which --help would spend for nothing."""
    commands = ", ".join(f"benchmarks.{name}" for name in (*COMMANDS, "trim_gain", "faults"))
    script = f"import sys, {commands}; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.split() == ["False"], ended.stderr


# --- equal results


def parts_of(packed: PackedBatch) -> list[dict[str, torch.Tensor]]:
    """The parts [T, V, 3] of each clip."""
    clips = packed.poses.split(packed.lengths)
    return [{part: poses[:, joints] for part, joints in PART_SLICES.items()} for poses in clips]


def equal_lengths(store: KeypointStore, tokenizer: Tokenizer, epoch: int) -> tuple[PackedBatch, PublishedBatch]:
    """The same clips, all of one length, for both."""
    shortest = int(store.clips.frames.min())
    settings = DataSettings(max_frames=shortest, p_samp=0.3, crop_size=DEMO.crop_size, crops="store")
    reader = ClipReader([store], settings, tokenizer)
    clips = reader.clips("train")
    packed = reader.batch(clips, range(len(clips)), epoch, True).batch
    samples = [reader.read(clips[number], epoch, True) for number in range(len(clips))]
    parts = parts_of(packed)
    model = UniSign(replace(DEMO.model, mt5=replace(DEMO.model.mt5, vocab_size=8), rgb=True))
    hands = [list(pixels) for pixels in model.rgb.pixels(packed.crops).split(packed.crops_per_hand)]
    crops = []
    for sample in samples:
        clip_crops = [hands[hand].pop(0) for hand in (0, 1) for _ in range(sample.crops_per_hand[hand])]
        crops.append(torch.stack(clip_crops))
    return packed, published_batch(samples, ["zh"] * len(samples), parts, crops)


def losses_of(model: torch.nn.Module, batches: Iterable, rate: float = 1e-3) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    losses = []
    for batch in batches:
        loss, tokens = model(batch)
        (loss / tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append((loss / tokens).item())
    return losses


def test_the_published_step_learns_what_ours_learns(store, tokenizer):
    mt5 = replace(DEMO.model.mt5, vocab_size=-(-len(tokenizer) // 8) * 8, dropout_rate=0.0)
    config = replace(DEMO.model, mt5=mt5, rgb=True, label_smoothing=0.2)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(UniSign(config).train())
        for module in models[-1].modules():
            if isinstance(module, StochasticDepth):
                module.p = 0.0
    ours, published = models[0], PublishedUniSign(models[1], tokenizer).train()
    for module in published.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0
    pairs = [equal_lengths(store, tokenizer, epoch) for epoch in range(4)]
    assert all(sum(packed.crops_per_hand) > 8 for packed, _ in pairs)
    result = losses_of(ours, [packed for packed, _ in pairs])
    expected = losses_of(published, [padded for _, padded in pairs])
    np.testing.assert_allclose(result, expected, rtol=1e-4)
    assert result[-1] < 0.9 * result[0]


def pose_only(packed: PackedBatch) -> PublishedBatch:
    """The same clips for the published step, padded."""
    parts = parts_of(packed)
    none, counts = torch.zeros(0), [0] * len(packed.lengths)
    languages = ["zh"] * len(packed.lengths)
    pairs = dict(crops=(none, none), crop_counts=(counts, counts), crop_frame=(none, none), crop_points=(none, none))
    return PublishedBatch(packed.texts, languages, packed.lengths, pad(parts), **pairs)


STEPS, WINDOW, SEEDS, RATE = 200, 50, (0, 1, 2), 3e-3


def test_loss_curves_of_both_recipes_lie_within_the_spread_of_seeds(tmp_path):
    """200 steps on clips of different lengths, with dropout: including padding and everything that is computed
    differently."""
    store = made_store(tmp_path / "store", 24, DEMO.max_frames, False, DEMO.crop_size)
    tokenizer = StepTokenizer(train_tokenizer([clip.text for clip in store.clips], tmp_path / "tokenizer").path)
    mt5 = MT5Shape(
        -(-len(tokenizer) // 8) * 8, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=4
    )
    assert mt5.dropout_rate == 0.1
    config = ModelConfig(mt5, parts="hands", pose_channels=(8, 8, 16, 24), label_smoothing=0.2)
    reader = ClipReader([store], DataSettings(max_frames=DEMO.max_frames, p_samp=0.0), tokenizer)
    clips = reader.clips("train")
    curves = {"fast": [], "baseline": []}
    for seed in SEEDS:
        order = np.random.default_rng(seed).integers(len(clips), size=(STEPS, 3))
        loaded = [reader.batch(clips, numbers.tolist(), 0, True).batch for numbers in order]
        for candidate, curve in curves.items():
            torch.manual_seed(seed)
            model = UniSign(config)
            if candidate == "baseline":
                losses = losses_of(PublishedUniSign(model, tokenizer).train(), map(pose_only, loaded), RATE)
            else:
                losses = losses_of(model.train(), loaded, RATE)
            curve.append(np.mean(np.reshape(losses, (-1, WINDOW)), axis=1))
    fast, baseline = np.array(curves["fast"]), np.array(curves["baseline"])
    spread = np.maximum(np.ptp(fast, axis=0), np.ptp(baseline, axis=0))
    assert (np.abs(fast.mean(0) - baseline.mean(0)) <= spread).all(), curves
    assert (fast[:, -1] < 0.8 * fast[:, 0]).all(), "it learns"


def test_published_batches_repeat_the_last_frame_and_keep_hands_apart(store, tokenizer):
    reader = ClipReader([store], DataSettings(max_frames=DEMO.max_frames, p_samp=0.3, crops="video"), tokenizer)
    samples = [reader.read(clip, 0, True) for clip in reader.clips("train")]
    parts = [{part: torch.from_numpy(s.poses[:, joints]) for part, joints in PART_SLICES.items()} for s in samples]
    crops = [torch.full((len(s.crop_frame), 3, 8, 8), float(number)) for number, s in enumerate(samples)]
    batch = published_batch(samples, ["zh"] * len(samples), parts, crops)
    short = int(np.argmin(batch.lengths))
    assert batch.lengths[short] < max(batch.lengths)
    for x_BTV3 in batch.parts.values():
        end = batch.lengths[short]
        assert x_BTV3.shape[1] == max(batch.lengths)
        torch.testing.assert_close(x_BTV3[short, end:], x_BTV3[short, end - 1 : end].expand_as(x_BTV3[short, end:]))
    for hand in (0, 1):
        owners = np.repeat(np.arange(len(samples)), batch.crop_counts[hand])
        assert batch.crops[hand][:, 0, 0, 0].tolist() == owners.tolist()
        assert len(batch.crop_frame[hand]) == len(batch.crop_points[hand]) == len(owners)


# --- what is counted


def test_flops_are_those_counted_by_hand():
    """GFLOP of a clip of 256 frames and 40 target tokens at full size; the prompt has 11 tokens."""
    work = forward_flops(ModelConfig(rgb=True), [256], [11], [40], 512, 112)
    result = {phase: flops / 1e9 for phase, flops in work.items()}
    mt5 = {"mT5 encoder": 48, "mT5 decoder": 8, "cross keys and values": 7.5, "vocabulary loss": 15.4}
    for phase, expected in mt5.items():
        assert result[phase] == pytest.approx(expected, rel=0.05), phase
    assert sum(result[phase] for phase in mt5) == pytest.approx(79, rel=0.01)
    assert result["pose encoder"] + result["temporal encoder"] == pytest.approx(55, rel=0.01)
    without = sum(result.values()) - result["RGB encoder"] - result["fusion"]
    # A quarter of EfficientNet-B0's count at 224 pixels would be 75 %; its last maps are 4 x 4, not 3.5 x 3.5.
    assert result["RGB encoder"] / without == pytest.approx(0.85, abs=0.01)
    assert result["fusion"] / 512 == pytest.approx(0.0446 + 0.0054, rel=0.1)


def test_flops_of_clips_add_up_and_the_vocabulary_counts():
    one, two = (forward_flops(ModelConfig(), [n], [9], [30], 0, 112) for n in (100, 200))
    both = forward_flops(ModelConfig(), [100, 200], [9, 9], [30, 30], 0, 112)
    assert both == {phase: one[phase] + two[phase] for phase in one} and "fusion" not in both
    small = forward_flops(ModelConfig(mt5=MT5Shape(vocab_size=25_011)), [100], [9], [30], 0, 112)
    assert small["vocabulary loss"] == pytest.approx(one["vocabulary loss"] / 10, rel=1e-4)


def test_flops_of_a_task_head_are_those_of_the_encoders_that_it_uses():
    for features, encoders in ("sign", ["pose", "temporal"]), ("encoder", ["pose", "temporal", "mT5"]):
        config = ModelConfig(head="ctc", head_features=features, head_classes=("a",))
        assert list(forward_flops(config, [100], [9], [30], 0, 112)) == [f"{name} encoder" for name in encoders]


def test_made_clips_have_the_lengths_of_csl_news(store, tokenizer):
    frames, tokens = csl_news_lengths(5000, 256)
    assert frames.max() == 256 and 190 < frames.mean() < 205  # before the cut to 256 and to 50 tokens: 238 and 40
    assert tokens.max() == 50 and 33 < tokens.mean() < 37
    frames, tokens = csl_news_lengths(len(store.clips), DEMO.max_frames)
    assert store.clips.frames.tolist() == frames.tolist()
    assert [len(tokenizer.target_ids(clip.text)) for clip in store.clips] == pytest.approx(tokens, abs=1)


def test_prompts_are_as_long_as_with_mt5s_own_tokenizer(tokenizer, shared):
    own = Tokenizer(shared / "mt5_tokenizer_zh")
    assert len(tokenizer.prompt_ids("zh")) == len(own.prompt_ids("zh"))


@pytest.mark.parametrize("published", [False, True])
def test_time_goes_to_the_stations_and_padding_is_counted(store, tokenizer, published):
    config = replace(DEMO.model, mt5=replace(DEMO.model.mt5, vocab_size=-(-len(tokenizer) // 8) * 8), rgb=True)
    model = UniSign(config)
    packed, padded = equal_lengths(store, tokenizer, 0)
    model, batch = (PublishedUniSign(model, tokenizer), padded) if published else (model, packed)
    clock = PhaseClock(torch.device("cpu"))
    with clock.watch(model):
        model(batch)[0].backward()
    assert clock.seconds.keys() == set(PHASES) - {"optimiser"} and min(clock.seconds.values()) > 0
    prompt = len(tokenizer.prompt_ids("zh"))
    assert clock.positions == sum(packed.lengths) + prompt * len(packed.lengths)


# --- the commands


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> list[dict]:
    """Rows of a small run."""
    file = tmp_path_factory.mktemp("throughput") / "rows.json"
    run_command(throughput, ["--p-samp", "0.5", *SMALL, "--json", str(file)])
    return json.loads(file.read_text())


def test_throughput_measures_both_recipes(measured):
    assert [row["candidate"] for row in measured] == ["fast", "baseline"]
    ours, theirs = (Row(**row) for row in measured)
    assert theirs.times_faster == theirs.memory_share == 1 and ours.times_faster > 0
    assert 0.3 < ours.unique_share == theirs.unique_share < 0.45  # 1 - 1 / sqrt(e) is 0.39
    assert (ours.crops, theirs.crops) == ("store", "video")
    assert ours.padding < theirs.padding < 0.5
    for row in (ours, theirs):
        assert row.utilisation is None or torch.cuda.is_available()
        assert min(row.clips_per_s, row.frames_per_s, row.tokens_per_s, row.gflop_per_s, row.peak_mib) > 0
        assert list(row.phases) == list(PHASES) and sum(row.phases.values()) == pytest.approx(1)
        assert np.isfinite(row.loss) and re.fullmatch(r"\d{4}-\d\d-\d\d", row.date)


def test_draws_the_trade_off_beside_the_papers(measured, tmp_path, capsys, monkeypatch):
    rows = list(measured)
    for p_samp, rate in ((0.0, 8.0), (0.25, 5.0), (1.0, 2.0)):
        rows += [row | {"p_samp": p_samp, "clips_per_s": rate} for row in measured]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    monkeypatch.setenv("COLUMNS", "200")
    drawn = ["--draw-rows", str(tmp_path / "rows.json"), "--picture", str(tmp_path / "rgb.png")]
    run_command(throughput, drawn)
    output = capsys.readouterr().out
    assert "Training step, demo" in output and "vocabulary loss" in output
    lines = [re.findall(r"[\w.%]+", line) for line in output[output.index("relative to pose-only") :].splitlines()]
    shown = {line[0]: (*line[2:4], line[-1]) for line in lines if line and line[0].endswith("%")}
    assert shown["0%"] == ("1.00", "1.00", "1.0")
    assert shown["25%"] == ("1.60", "1.60", "1.7") and shown["100%"] == ("4.00", "4.00", "none")
    with Image.open(tmp_path / "rgb.png") as picture:
        assert picture.width > 1000 and len(set(picture.convert("L").getdata())) > 10


def test_profile_writes_a_trace_and_the_costliest_operations(tmp_path):
    files = ["--trace", str(tmp_path / "trace.json"), "--json", str(tmp_path / "rows.json")]
    run_command(profile_step, ["--p-samp", "0", *SMALL, *files])
    assert "aten::mm" in {event["name"] for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    times = [row["own ms"] for row in rows]
    assert times == sorted(times, reverse=True) and sum(row["share"] for row in rows) == pytest.approx(1)


def test_compare_measures_a_commit_that_differs(tmp_path):
    """In a separate repository, whose only commit sleeps in every step."""
    tree = tmp_path / "repository"
    tree.mkdir()
    for folder in ("benchmarks", "kernels", "pipelines", "unisign_fast"):
        subprocess.run(["cp", "-r", ROOT / folder, tree / folder], check=True)
    model = tree / "unisign_fast" / "model" / "unisign.py"
    now = model.read_text()
    before = now.replace("        filled = _never_empty", "        time.sleep(1)\n        filled = _never_empty", 1)
    assert before != now
    model.write_text(before.replace("import torch\n", "import time\n\nimport torch\n", 1))
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "slow"]):
        subprocess.run(["git", *arguments], cwd=tree, check=True)
    model.write_text(now)
    command = [sys.executable, "benchmarks/compare.py", "HEAD", "--p-samp", "0", *SMALL]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "rows.json")], cwd=tree, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    slow, fast = json.loads((tmp_path / "rows.json").read_text())
    assert fast["candidate"] == "this tree" and slow["loss"] == pytest.approx(fast["loss"], rel=1e-5)
    assert slow["faster_p50"] == 1 and fast["faster_p50"] > 1.5


def test_a_trimmed_vocabulary_is_measured_beside_mt5s_own(tmp_path):
    run_command(trim_gain, [*SMALL, "--vocabulary", "512", "--json", str(tmp_path / "rows.json")])
    full, trimmed = json.loads((tmp_path / "rows.json").read_text())
    assert (full["candidate"], trimmed["candidate"]) == ("250,112", "512")
    assert trimmed["peak_mib"] < full["peak_mib"] and trimmed["loss"] < full["loss"]


REFUSED = {
    "no number": ("throughput --p-samp a,b", ["--p-samp: 'a,b' is not a list of numbers"]),
    "share": ("throughput --p-samp 0,1.5", ["--p-samp: 1.5 is not valid"]),
    "stage 1 with RGB": ("throughput --stage 1 --p-samp 0.1", ["stage 1 is pose-only", "--stage 3"]),
    "stage 2 without": ("profile_step --stage 2 --p-samp 0", ["stage 2 trains the RGB branch"]),
    "trials": ("throughput --trials 0", ["--trials: 0 is not valid"]),
    "no store": ("throughput --data nowhere", ["nowhere: is not a store"]),
    "vocabulary": ("throughput --recipe demo --clips 4 --p-samp 0 --vocabulary 9", ["--vocabulary: 9 is too few"]),
    "no folder": ("profile_step --trace nowhere/trace.json", ["--trace: there is no folder", "name another"]),
    "no commit": ("compare no-such-commit", ["REV: no-such-commit is not a commit"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_input_ends_with_one_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (command, *arguments), words = REFUSED[name][0].split(), REFUSED[name][1]
    with pytest.raises(SystemExit) as ended:
        run_command(COMMANDS[command], arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and re.fullmatch(r"error: [^\n]+: [^\n]+; [^\n]+\n", error), error
    assert all(word in error for word in words), error
