"""Builds a keypoint store for training from a folder of broadcast programmes (docs/curation.md).

python launch/curate.py run sources.toml --out data/mine --text captions
python launch/curate.py status data/mine
python launch/curate.py retry data/mine
python launch/curate.py finish data/mine --crops
python launch/curate.py withdraw data/mine SOURCE
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from unisign_fast.pipelines.errors import InputError
from unisign_fast.utils.console import run_command

Folder = tyro.conf.Positional[Path]


def run(
    sources: tyro.conf.Positional[Path],
    out: Path,
    text: Literal["captions", "asr"] = "captions",
    asr: Literal["funasr", "whisper"] = "funasr",
    asr_model: str | None = None,
    cut: Literal["clause", "sentence"] = "sentence",
    target_seconds: float = 9.5,
    lag: float | None = None,
    detector: Path | None = None,
    pose_model: Path | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    workers: int | None = None,
    part_seconds: float = 300.0,
    most_copies: int = 3,
    thresholds: Path | None = None,
) -> None:
    """Build a corpus from programmes: timed texts, poses of the signer, clips, and a release to train on.

    Finished work is never repeated: the same command resumes after any interruption, and a changed setting repeats only
    what depends on it. Items that fail become dead letters with a reason. Ray distributes the work over this machine,
    or over the cluster at RAY_ADDRESS, which shares the folder. Needs `bash launch/install.sh curation`.

    Args:
        sources: TOML file that names the programmes, the signer's box, language, licence and consent.
        out: Folder of the corpus, on one file system with atomic rename.
        text: Caption files beside the videos (SRT, WebVTT, TTML), or speech recognition.
        asr: FunASR as in the paper, or faster-whisper.
        asr_model: Name of a model that the recogniser knows, or its folder.
        cut: Clips end where sentences end, or clauses as in the paper.
        target_seconds: Short pieces are merged to about this length; 0 merges nothing.
        lag: Seconds by which signing lags behind speech, for all series. Default: estimated, else the series' own.
        detector: ONNX file of a YOLOX person detector to use instead of YOLOX-m.
        pose_model: ONNX file of a whole-body pose network to use instead of RTMW-l.
        device: cuda needs onnxruntime-gpu instead of onnxruntime.
        workers: Worker processes. Default: one per core.
        part_seconds: Length of the parts into which programmes are split for the workers.
        most_copies: Clips kept per text at most, including near-duplicates.
        thresholds: JSON file with filter thresholds; those it does not name keep their defaults.
    """
    from unisign_fast.pipelines.curation.folder import CorpusFolder  # late import: keeps --help quick
    from unisign_fast.pipelines.curation.settings import CurationSettings, read_thresholds

    settings = CurationSettings(
        sources=str(sources.resolve()),
        text=text,
        asr=asr,
        asr_model=asr_model,
        cut=cut,
        target_seconds=target_seconds,
        lag=lag,
        detector=_absolute(detector),
        pose_model=_absolute(pose_model),
        device=device,
        workers=workers,
        part_seconds=part_seconds,
        most_copies=most_copies,
        thresholds=read_thresholds(thresholds),
    )
    _run(CorpusFolder(out), settings)


def retry(out: Folder) -> None:
    """Retry all dead letters with the settings of the last run.

    Args:
        out: Folder of the corpus.
    """
    from unisign_fast.pipelines.curation.folder import CorpusFolder
    from unisign_fast.pipelines.curation.settings import read_curation_settings

    folder = CorpusFolder(out)
    settings = read_curation_settings(folder)
    with folder.locked():
        print(f"retrying {len(folder.revive())} dead letters")
    _run(folder, settings)


def finish(out: Folder, crops: bool = False) -> None:
    """Make a release of what is finished so far.

    Args:
        out: Folder of the corpus.
        crops: Also cut both hands out of every frame, so that RGB training opens no video.
    """
    from unisign_fast.pipelines.curation.folder import CorpusFolder
    from unisign_fast.pipelines.curation.settings import read_curation_settings
    from unisign_fast.pipelines.curation.survey import Survey

    folder = CorpusFolder(out)
    settings = read_curation_settings(folder)
    with folder.locked():
        survey = Survey(folder, settings)
        survey.read_plans()
        _finish(survey)
    if crops and folder.current.exists():
        from unisign_fast.pipelines.crops.cutting import cut_crops
        from unisign_fast.pipelines.store.keypoint_store import KeypointStore

        writer = cut_crops(KeypointStore.open(folder.current.resolve() / "store"), 112, 90, workers=settings.workers)
        print(f"{writer.path}: {writer.clips - len(writer.left_out)} clips, {writer.bytes / 1e6:.1f} MB")


def withdraw(out: Folder, source: tyro.conf.Positional[str], runs: Path = Path("runs")) -> None:
    """Remove every byte of a source from plans, parts, crops and releases, and make a new release without it.

    The video itself is not touched; a tombstone keeps it out. Models that were trained on it are named, not changed.

    Args:
        out: Folder of the corpus.
        source: File of the programme, or at least 8 digits of its SHA-256, which `status` lists.
        runs: Folder of training runs in which to look for those trained on the source.
    """
    from unisign_fast.pipelines.curation.folder import CorpusFolder
    from unisign_fast.pipelines.curation.settings import read_curation_settings
    from unisign_fast.pipelines.curation.survey import Survey
    from unisign_fast.pipelines.curation.withdrawal import withdraw as withdraw_source

    folder = CorpusFolder(out)
    settings = read_curation_settings(folder)
    with folder.locked():
        withdrawn = withdraw_source(folder, source, runs)
        print(f"withdrawn: {withdrawn.content}")
        print(f"removed releases that held it: {', '.join(withdrawn.releases) or 'none'}")
        print(f"runs in {runs} trained on it: {', '.join(map(str, withdrawn.runs)) or 'none'}")
        try:
            survey = Survey(folder, settings)
            survey.read_plans()
        except InputError as error:  # the withdrawn file was the last of its series, or is gone
            print(f"no new release: {error}")
            return
        _finish(survey)


def status(
    out: Annotated[Path | None, tyro.conf.Positional] = None, plan: bool = False, hours: float = 1985, gpus: int = 8
) -> None:
    """Show what is finished, pending and failed; or, with --plan, the arithmetic of a large corpus.

    Args:
        out: Folder of the corpus.
        plan: Print the work for `hours` of programmes on `gpus` GPUs, with all assumptions.
        hours: Hours of programmes in the plan; CSL-News has 1,985.
        gpus: GPUs in the plan.
    """
    from unisign_fast.pipelines.curation import status as stages
    from unisign_fast.pipelines.curation.folder import CorpusFolder
    from unisign_fast.pipelines.curation.settings import read_curation_settings
    from unisign_fast.pipelines.curation.survey import Survey

    if plan:
        stages.print_plan(hours, gpus, CorpusFolder(out) if out else None)
        return
    if out is None:
        raise InputError("OUT", "is not given", "name the folder of the corpus, or give --plan")
    folder = CorpusFolder(out)
    survey = Survey(folder, read_curation_settings(folder))
    survey.read_plans()
    stages.print_status(survey)


def _run(folder, settings) -> None:
    from unisign_fast.pipelines.curation.run import make_parts

    with folder.locked():
        survey, done = make_parts(folder, settings)
        print(f"{folder.root}: {done.made['plan']} plans and {done.made['part']} parts made, {done.dead} dead letters")
        _finish(survey)


def _finish(survey) -> None:
    from unisign_fast.pipelines.curation.release import finish as make_release

    release = make_release(survey)
    if release is None:
        print("no release: no clips are kept")
        return
    print(f"release {release.path.name}: {release.clips} of {release.candidates} clips kept")
    from unisign_fast.report.corpus_page import write_corpus_page

    page = release.path.with_suffix(".html")
    write_corpus_page(release.path, page)
    print(f"report: {page}")
    print(f"train on it: deepspeed launch/pretrain.py --stores {survey.folder.current / 'store'}")


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


if __name__ == "__main__":
    commands: list[Callable[..., None]] = [run, status, retry, finish, withdraw]
    run_command({command.__name__: command for command in commands}, examples=__doc__)
