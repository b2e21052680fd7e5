"""Puts a run's report together and writes it as one HTML file."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console
from rich.progress import track

from unisign_fast.evaluation.evaluate import MAIN_METRIC
from unisign_fast.model.config import ModelConfig
from unisign_fast.model.unisign import UniSign
from unisign_fast.paper.scores import PUBLISHED
from unisign_fast.pipelines.atomic_io import replace_text
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.report.charts import Chart, chart
from unisign_fast.report.clip_figures import ClipFigures, clip_figures
from unisign_fast.report.clip_view import ClipViewer
from unisign_fast.report.ranking import Said, compare, worst_and_best
from unisign_fast.report.run_folder import RunFolder, read_run

HERE = Path(__file__).parent


@dataclass(frozen=True)
class ShownClip:
    """A clip on the page."""

    id: str
    said: Said | None  # None where nothing was predicted
    figures: ClipFigures | None  # None where the clip cannot be read: `problem` says why
    problem: str = ""


def write_report(folder: Path, out: Path, clips: int, faces: bool) -> None:
    """The report of the run in `folder`, with so many of its worst and of its best clips, into the file `out`.

    What the run lacks is said on the page. Raises InputError if `folder` is no run or `out` cannot be written.
    """
    run = read_run(folder)
    model, without_model = _model(run)
    groups, without_clips = _clips(run, model, clips, faces)
    figures = [shown.figures for _, group in groups for shown in group if shown.figures]
    files = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = files.get_template("page.html.j2").render(
        run=run,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=(HERE / "style.css").read_text(encoding="utf-8"),
        script=(HERE / "script.js").read_text(encoding="utf-8"),
        charts=_charts(run),
        published=PUBLISHED[run.data.task],
        groups=groups,
        without_clips=without_clips,
        without_model=without_model,
        faces=faces,
        players=[f.player for f in figures],
    )
    replace_text(out, page)


def _charts(run: RunFolder) -> list[Chart]:
    """Curves of what the log has."""
    steps, evaluations = run.of("step"), run.of("evaluation")
    metric = MAIN_METRIC[run.data.task][0]
    curves = {
        "Training loss": [(e["step"], e["loss"]) for e in steps],
        f"{metric} on the dev split, percent": [(e["step"], e["scores"][metric]) for e in evaluations],
        "Learning rate": [(e["step"], e["learning_rate"]) for e in steps],
        "Speed, clips/s, median of five": _medians([(e["step"], e["clips_per_s"]) for e in steps]),
    }
    finite = {title: [(x, y) for x, y in points if math.isfinite(y)] for title, points in curves.items()}
    return [chart(title, points) for title, points in finite.items() if points]


def _medians(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Of each value and its neighbours: a pause in training is no speed."""
    return [(x, median(y for _, y in points[max(0, i - 2) : i + 3])) for i, (x, _) in enumerate(points)]


def _model(run: RunFolder) -> tuple[UniSign | None, str]:
    """The weights that were tested, if they have an RGB branch; else why there is nothing to see inside."""
    if run.data.p_samp == 0:
        return None, "The run is pose-only: it samples no hand crops, so there are no gates and no sampling points."
    if run.model is None:
        return None, f"No gates and no sampling points: {run.path} has neither best/ nor last/."
    try:
        assert ModelConfig.load(run.model / "config.json").rgb
        return UniSign.load(run.model)[0], ""
    except InputError as error:
        return None, f"No gates and no sampling points: {error}"


def _clips(run: RunFolder, model: UniSign | None, count: int, faces: bool) -> tuple[list, str]:
    """Groups (heading, shown clips), and why clips cannot be seen, if they cannot."""
    rule = run.scores["normalization"] if run.scores else "single-spaces"
    said = [compare(run.data.task, rule, row) for row in run.predictions]
    groups = list(zip(("Worst clips", "Best clips"), worst_and_best(said, count), strict=True)) if said else []
    try:
        stores = [KeypointStore.open(path) for path in run.stores]
        viewer = ClipViewer(run, stores, "test" if said else _split(stores), model, faces)
    except InputError as error:
        return [(h, [ShownClip(s.id, s, None) for s in group]) for h, group in groups], str(error)
    wanted: list[tuple[str, list[tuple[Said | None, int | None]]]]
    if said:
        numbers = _numbers(run, viewer)
        references = {row.id: row.reference for row in run.predictions}
        wanted = [(h, [(s, numbers.get((s.id, references[s.id]))) for s in group]) for h, group in groups]
    else:
        wanted = [("Clips", [(None, number) for number in range(min(count, len(viewer.clips)))])]
    console, places = Console(stderr=True), [pair for _, group in wanted for pair in group]
    bar = track(places, "clips", console=console, disable=not console.is_terminal)
    shown = iter([_shown(viewer, said, number, number_on_page) for number_on_page, (said, number) in enumerate(bar)])
    return [(heading, [next(shown) for _ in group]) for heading, group in wanted], ""


def _shown(viewer: ClipViewer, said: Said | None, number: int | None, place: int) -> ShownClip:
    if number is None:
        assert said is not None, "a clip without a prediction comes from the stores"
        return ShownClip(said.id, said, None, "The run's stores hold no such clip any more.")
    try:
        return ShownClip(viewer.clips.name(number), said, clip_figures(viewer.view(number), place))
    except InputError as error:
        return ShownClip(viewer.clips.name(number), said, None, str(error))


def _split(stores: list[KeypointStore]) -> str:
    """Where clips come from when nothing was predicted."""
    for split in ("dev", "test"):
        if any(len(store.clips.of_split(split)) for store in stores):
            return split
    return "train"


def _numbers(run: RunFolder, viewer: ClipViewer) -> dict[tuple[str, str], int]:
    """Clips by id and target: an id is unique within a store only."""
    result = {}
    for number in range(len(viewer.clips)):
        try:
            clip = viewer.clips[number].clip
            result[clip.id, clip.target(run.data.task, run.data.language)] = number
        except InputError:  # a damaged line, or no text: nothing was predicted of it
            continue
    return result
