"""The last stage, on the driver: filters the clips that candidates.py cuts, and writes them as a store to train on.

Nothing here takes long, so lag, cut, thresholds and splits can be changed cheaply. A release is byte-identical however
often its parts were interrupted; DIGEST is a digest of everything it depends on.

    OUT/releases/DIGEST/store          keypoint store with the clips that are kept
    OUT/releases/DIGEST/quality.jsonl  every clip, kept or not: measurements and reasons
    OUT/releases/DIGEST/release.json   programmes with licence, consent and lag, settings, counts
"""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from ..atomic_io import created_once, replace_json, replace_text
from ..errors import InputError
from ..store.keypoint_store import KeypointStoreWriter
from .candidates import Candidate, Programmes, cut_keypoints, measure_candidates, programme_lags
from .duplicates import duplicate_reasons
from .records import Lag
from .survey import Survey

VERSION = 2  # of the computation


@dataclass(frozen=True)
class Release:
    """A finished release."""

    path: Path
    clips: int  # kept
    candidates: int

    @property
    def store(self) -> Path:
        """The store to train on."""
        return self.path / "store"


def finish(survey: Survey) -> Release | None:
    """Makes the release of all finished parts unless it exists; None, and no link `current`, if no clip is kept.

    The caller holds the folder's lock. Raises InputError if a part is damaged or the disk is full.
    """
    folder, programmes = survey.folder, Programmes(survey)
    path = folder.releases / _digest(survey, programmes)
    if not (path / "release.json").exists():
        lags = programme_lags(survey, programmes)
        candidates = [one for work in programmes.work for one in measure_candidates(survey, programmes, work, lags)]
        _reject_duplicates(candidates, survey.settings.most_copies)
        if all(one.reasons for one in candidates):
            folder.current.unlink(missing_ok=True)
            return None
        with created_once(path, folder.unfinished) as part:
            _write_store(part / "store", programmes, candidates)
            lines = [msgspec.json.encode(one).decode() + "\n" for one in candidates]
            replace_text(part / "quality.jsonl", "".join(lines))
            replace_json(part / "release.json", _record(survey, programmes, lags, candidates))
    folder.point_current_to(path)
    counts = msgspec.json.decode((path / "release.json").read_bytes())["clips"]
    return Release(path, counts["kept"], counts["candidates"])


def _digest(survey: Survey, programmes: Programmes) -> str:
    depends = [
        [work.plan_key, [item["key"] for item in programmes.finished[work.plan_key]], str(work.programme.path)]
        for work in programmes.work
    ]
    listed = json.dumps([VERSION, depends, _settings(survey)], sort_keys=True, default=str)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def _settings(survey: Survey) -> dict[str, Any]:
    """The settings that a release depends on, besides its plans and parts."""
    settings = survey.settings
    return {
        "cut": settings.cut,
        "target_seconds": settings.target_seconds,
        "lag": settings.lag,
        "most_copies": settings.most_copies,
        "thresholds": asdict(settings.thresholds),
        "sources": json.loads(msgspec.json.encode(survey.sources)),
    }


def _reject_duplicates(candidates: list[Candidate], most_copies: int) -> None:
    kept = [one for one in candidates if not one.reasons]
    texts, splits, keypoints = ([getattr(one, name) for one in kept] for name in ("text", "split", "crc32c"))
    try:
        reasons = duplicate_reasons(texts, splits, keypoints, most_copies)
    except ImportError as error:
        problem = f"datasketch cannot be imported ({error})"
        raise InputError("curate.py", problem, "run `bash launch/install.sh curation`") from None
    for number, reason in reasons.items():
        kept[number].reasons.append(reason)


def _write_store(path: Path, programmes: Programmes, candidates: list[Candidate]) -> None:
    """Write the kept clips in order. Keypoints are fractions of the signer's box; `source` is the whole programme."""
    kept: dict[str, list[Candidate]] = {}
    for one in candidates:
        if not one.reasons:
            kept.setdefault(one.source, []).append(one)
    works = [work for work in programmes.work if work.programme.source_id in kept]
    first_part = programmes.parts(works[0])[0]
    origin = {"estimator": first_part.info.estimator, "version": "curate.py", "coordinates": "fractions of the box"}
    with KeypointStoreWriter(path, origin) as writer:
        for work in works:
            plan, parts = programmes.plan(work), programmes.parts(work)
            left, top, right, bottom = parts[0].info.box
            for one in kept[work.programme.source_id]:
                keypoints = cut_keypoints(parts, one.first, one.frames)
                assert keypoints is not None
                writer.add(
                    keypoints,
                    id=one.id,
                    split=one.split,
                    language=one.language,
                    text=one.text,
                    fps=plan.fps,
                    width=right - left,
                    height=bottom - top,
                    source=str(work.programme.path),
                    tags={"series": one.series, "source": one.source},
                    video_start=one.first,
                    video_frames=plan.frames,
                    box=(left, top, right, bottom),
                )


def _record(
    survey: Survey, programmes: Programmes, lags: dict[str, Lag], candidates: list[Candidate]
) -> dict[str, Any]:
    """The content of release.json."""
    reasons = Counter(reason for one in candidates for reason in one.reasons)
    kept = [one for one in candidates if not one.reasons]
    return {
        "clips": {"candidates": len(candidates), "kept": len(kept), "splits": Counter(one.split for one in kept)},
        "rejected": dict(sorted(reasons.items())),
        "programmes": [
            {
                "source": work.programme.source_id,
                "series": work.programme.series,
                "date": work.programme.day.isoformat() if work.programme.day else None,
                "language": work.series.language,
                "licence": work.series.licence,
                "consent": work.series.consent,
                "seconds": round(programmes.plan(work).frames / programmes.plan(work).fps, 3),
                "lag": _lag_record(lags[work.plan_key]),
                "plan": work.plan_key,
                "parts": [item["key"] for item in programmes.finished[work.plan_key]],
                "missing_parts": len(work.part_items) - len(programmes.finished[work.plan_key]),
            }
            for work in programmes.work
        ],
        "settings": _settings(survey),
    }


def _lag_record(lag: Lag) -> dict[str, float]:
    """The lag without its drift, which already shows in the clips' frames."""
    times = ("start_seconds", "end_seconds", "confidence")
    return {name: round(getattr(lag, name), 3) for name in times}
