"""Collects the parts of a run's report and writes them to one HTML file."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from rich.console import Console
from rich.progress import track

from unisign_fast.evaluation.evaluate import MAIN_METRIC
from unisign_fast.model.config import ModelConfig
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.atomic_io import replace_text
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.report import charts, head
from unisign_fast.report.clip_figures import ClipFigures, clip_figures
from unisign_fast.report.clip_view import ClipViewer
from unisign_fast.report.pictures import text_uri
from unisign_fast.report.ranking import Comparison, compare, worst_and_best
from unisign_fast.report.run_folder import RunFolder, read_run
from unisign_fast.report.score_table import as_csv, as_latex, score_table
from unisign_fast.report.words import confusion_matrix, worst_words

HERE = Path(__file__).parent
SENTENCE_SCORES = {"slt": "Sentence BLEU of the test clips", "cslr": "Word error rate (WER) of the test clips"}


@dataclass(frozen=True)
class ShownClip:
    """A clip on the page."""

    id: str
    compared: Comparison | None  # None without a prediction
    figures: ClipFigures | None  # None if the clip cannot be read; `problem` says why
    problem: str = ""


def write_report(folder: Path, out: Path, clips: int, faces: bool) -> None:
    """Write the report of the run in `folder`, with its `clips` worst and `clips` best clips, to the file `out`.

    `faces` adds video frames. The page says what the run lacks. Raises InputError if `folder` is not a run or `out`
    cannot be written.
    """
    run = read_run(folder)
    stores = [_open(path) for path in run.stores]
    rule = run.scores["normalization"] if run.scores else "single-spaces"
    language = run.data.language or (run.scores or {}).get("language", "und")
    compared = [compare(run.data.task, language, rule, row) for row in run.predictions]
    model, without_model = _model(run)
    groups, without_clips = _clips(run, stores, compared, model, clips, faces)
    shown = [clip.figures for _, group in groups for clip in group if clip.figures]
    problems = [clip.problems for clip in shown]
    table = score_table(run, head.modality(run))
    csv, latex = as_csv(table), as_latex(table)
    titled = [(heading.lower().replace(" ", "-"), heading, group) for heading, group in groups]
    is_words = run.data.task == "islr" and bool(compared)
    page = _template().render(
        run=run,
        style=(HERE / "style.css").read_text(encoding="utf-8"),
        script=(HERE / "script.js").read_text(encoding="utf-8"),
        facts=head.facts(run, datetime.now(UTC).isoformat(timespec="seconds")),
        data=head.data_rows(run, stores),
        settings=head.setting_rows(run),
        sections=_sections(run, bool(compared), [(anchor, heading) for anchor, heading, _ in titled]),
        table=table,
        latex=latex,
        csv_uri=text_uri("text/csv", csv),
        latex_uri=text_uri("application/x-tex", latex),
        charts=_curves(run),
        compared=compared,
        language=language,
        distribution=_distribution(run, compared),
        matrix=confusion_matrix(compared) if is_words else None,
        worst_words=worst_words(compared) if is_words else [],
        groups=titled,
        without_clips=without_clips,
        without_model=without_model,
        shared_problems=[p for p in problems[0] if all(p in other for other in problems)] if problems else [],
        faces=faces,
        players=[clip.player for clip in shown],
    )
    replace_text(out, page)


def _template() -> Template:
    """The page's template; every text put into it is escaped."""
    files = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    right, bottom = charts.WIDTH - charts.RIGHT, charts.HEIGHT - charts.BOTTOM
    files.globals["frame"] = {
        "width": charts.WIDTH,
        "height": charts.HEIGHT,
        "left": charts.LEFT,
        "right": right,
        "bottom": bottom,
    }
    return files.get_template("page.html.j2")


def _open(path: Path) -> KeypointStore | InputError:
    """A store, or why it cannot be opened."""
    try:
        return KeypointStore.open(path)
    except InputError as error:
        return error


def _sections(run: RunFolder, has_predictions: bool, groups: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Anchor and heading of the page's sections."""
    inner = ("words", "Words") if run.data.task == "islr" else ("distribution", "Sentence scores")
    return [
        ("scores", "Scores"),
        ("curves", "Curves"),
        *([inner] if has_predictions else []),
        *groups,
        *([("predictions", "All predictions")] if has_predictions else []),
        ("left-out", "Clips left out"),
    ]


def _curves(run: RunFolder) -> list[charts.Chart]:
    """The curves of the values in the log."""
    steps = run.logged("step")
    metric, best = MAIN_METRIC[run.data.task]
    speeds = "Speed, clips/s, median of five"
    scores = [(e["step"], s.get(metric)) for e in run.logged("evaluation") if isinstance(s := e.get("scores"), dict)]
    curves = {
        "Training loss": _finite([(e["step"], e.get("loss")) for e in steps]),
        f"{metric} on the dev split, percent": _finite(scores),
        "Learning rate": _finite([(e["step"], e.get("learning_rate")) for e in steps]),
        speeds: _medians(_finite([(e["step"], e.get("clips_per_s")) for e in steps])),
    }
    charted = []
    for title, points in curves.items():
        if points and metric in title:
            limit = 100.0 if best is max else math.inf  # a WER may be above 100
            charted.append(charts.line_chart(title, points, best=best, limit=limit))
        elif points:
            charted.append(charts.line_chart(title, points, smooth=title == "Training loss"))
    return charted


def _finite(points: list[tuple[int, object]]) -> list[tuple[int, float]]:
    return [(x, float(y)) for x, y in points if isinstance(y, int | float) and math.isfinite(y)]


def _medians(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Each value's median with its neighbours, five in all, so that a pause in training does not show as low speed."""
    return [(x, median(y for _, y in points[max(0, i - 2) : i + 3])) for i, (x, _) in enumerate(points)]


def _distribution(run: RunFolder, compared: list[Comparison]) -> charts.Histogram | None:
    """The histogram of the scores of single clips; None for words, which are only right or wrong."""
    if run.data.task == "islr" or not compared:
        return None
    values = [clip.score for clip in compared]
    return charts.histogram(SENTENCE_SCORES[run.data.task], values, above=run.data.task == "cslr")


def _model(run: RunFolder) -> tuple[UniSign | None, str]:
    """The tested model if it has an RGB branch, else the reason why gates and sampling points cannot be shown."""
    if run.data.p_samp == 0:
        return None, "The run is pose-only: it samples no hand crops, so there are no gates and no sampling points."
    if run.model is None:
        return None, f"No gates and no sampling points: {run.path} has neither best/ nor last/."
    try:
        assert ModelConfig.load(run.model / "config.json").rgb
        return UniSign.load(run.model)[0], ""
    except InputError as error:
        return None, f"No gates and no sampling points: {error}"


def _clips(
    run: RunFolder,
    stores: list[KeypointStore | InputError],
    compared: list[Comparison],
    model: UniSign | None,
    count: int,
    faces: bool,
) -> tuple[list[tuple[str, list[ShownClip]]], str]:
    """Headings with their clips, and the reason why clips cannot be shown ("" if they can)."""
    ends = worst_and_best(compared, count)
    groups = list(zip(("Worst clips", "Best clips"), ends, strict=True)) if compared else []
    opened = [store for store in stores if isinstance(store, KeypointStore)]
    try:
        for store in stores:
            if isinstance(store, InputError):
                raise store
        viewer = ClipViewer(run, opened, "test" if compared else _split(opened), model, faces)
    except InputError as error:
        return [(h, [ShownClip(c.id, c, None) for c in group]) for h, group in groups], str(error)
    selected: list[tuple[str, list[tuple[Comparison | None, int | None]]]]
    if compared:
        numbers = _numbers(run, viewer)
        references = {row.id: row.reference for row in run.predictions}
        selected = [(h, [(c, numbers.get((c.id, references[c.id]))) for c in group]) for h, group in groups]
    else:
        selected = [("Clips", [(None, number) for number in range(min(count, len(viewer.clips)))])]
    console, pairs = Console(stderr=True), [pair for _, group in selected for pair in group]
    bar = track(pairs, "clips", console=console, disable=not console.is_terminal)
    shown = iter([_shown(viewer, clip, number, index) for index, (clip, number) in enumerate(bar)])
    return [(heading, [next(shown) for _ in group]) for heading, group in selected], ""


def _shown(viewer: ClipViewer, compared: Comparison | None, number: int | None, index: int) -> ShownClip:
    """Clip `number` of the viewer's clips, as clip `index` on the page."""
    if number is None:
        assert compared is not None, "a clip without a prediction comes from the stores"
        return ShownClip(compared.id, compared, None, "The run's stores no longer hold this clip.")
    try:
        return ShownClip(viewer.clips.name(number), compared, clip_figures(viewer.view(number), index))
    except InputError as error:
        return ShownClip(viewer.clips.name(number), compared, None, str(error))


def _split(stores: list[KeypointStore]) -> str:
    """The split whose clips are shown if there are no predictions."""
    for split in ("dev", "test"):
        if any(len(store.clips.numbers_in(split)) for store in stores):
            return split
    return "train"


def _numbers(run: RunFolder, viewer: ClipViewer) -> dict[tuple[str, str], int]:
    """Clip numbers by id and target, because an id is unique within a store only."""
    result = {}
    for number in range(len(viewer.clips)):
        try:
            clip = viewer.clips[number].clip
            result[clip.id, clip.target(run.data.task, run.data.language)] = number
        except InputError:  # a damaged line, or no text: such a clip has no prediction
            continue
    return result
