"""Withdraws a source: removes everything made from it, and names the training runs that used it.

A tombstone with the content's SHA-256 is written first, so that the next command completes a killed withdrawal, and the
source is never used again even if its file is still among the programmes. The file itself is left to the user.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..atomic_io import clear_unfinished, replace_json
from ..errors import InputError
from ..input_files import read_json
from ..store.keypoint_store import KeypointStore
from .folder import KEY_DIGITS, CorpusFolder, remove
from .sources import Checksums


@dataclass(frozen=True)
class Withdrawn:
    """A withdrawn source, the digests of the releases that contained it, and the training runs on these."""

    content: str  # SHA-256
    releases: list[str]
    runs: list[Path]


def withdraw(folder: CorpusFolder, source: str, runs: Path) -> Withdrawn:
    """Withdraws a source, given by its file or by at least 8 digits of its SHA-256. Makes no new release.

    `runs` is a folder of training runs, whose settings say which stores they were trained on. The caller holds the
    corpus folder's lock. Raises InputError if there is no such source.
    """
    content = _find(folder, source)
    if not folder.tombstone(content).exists():
        held = [path for path in _releases(folder) if content[:KEY_DIGITS] in _sources_of(path)]
        replace_json(folder.tombstone(content), {"releases": {path.name: _checksum(path) for path in held}})
    releases = _tombstone_releases(folder.tombstone(content))
    clear_unfinished(folder.unfinished)
    purge(folder)
    return Withdrawn(content, sorted(releases), list(_runs_on(runs, releases)))


def purge(folder: CorpusFolder) -> None:
    """Removes what is left of withdrawn sources: plans, parts, attempts, dead letters, releases with their clips."""
    withdrawn = folder.withdrawn
    if not withdrawn:
        return
    ids = {content[:KEY_DIGITS] for content in withdrawn}
    for source_id in ids:
        for path in folder.of_source(source_id):
            remove(path)
    for release in _releases(folder):
        if ids & _sources_of(release):
            if folder.current.resolve() == release.resolve():
                folder.current.unlink(missing_ok=True)
            remove(release)
            remove(release.with_suffix(".html"))  # its report
    for half_removed in folder.releases.glob(".*"):
        remove(half_removed)
    if folder.checksums.exists():
        checksums = Checksums(folder.checksums)
        checksums.keep_all()
        checksums.save(forget=withdrawn.__contains__)


def _find(folder: CorpusFolder, source: str) -> str:
    """The SHA-256 of a source."""
    checksums = Checksums(folder.checksums)
    if Path(source).is_file():
        return checksums.of(Path(source).resolve())
    known = {digest for digest in checksums.contents() if any(folder.of_source(digest[:KEY_DIGITS]))}
    known |= folder.withdrawn
    matches = {digest for digest in known if digest.startswith(source.lower())}
    if not re.fullmatch(r"[0-9a-fA-F]{8,64}", source) or len(matches) != 1:
        problem = "is neither a source's file nor at least 8 digits of its SHA-256"
        raise InputError(f"SOURCE: {source}", problem, "`curate.py status` lists the sources")
    return matches.pop()


def _releases(folder: CorpusFolder) -> list[Path]:
    return sorted(path.parent for path in folder.releases.glob("*/release.json"))


def _sources_of(release: Path) -> set[str]:
    record = read_json(release / "release.json")
    assert isinstance(record, dict), release
    return {programme["source"] for programme in record["programmes"]}


def _checksum(release: Path) -> str:
    """The checksum that a run's settings.json records for a store."""
    return f"CRC-32C {KeypointStore.open(release / 'store').manifest_crc32c:08x}"


def _tombstone_releases(tombstone: Path) -> dict[str, str]:
    content = read_json(tombstone)
    return content.get("releases", {}) if isinstance(content, dict) else {}


def _runs_on(runs: Path, releases: dict[str, str]) -> Iterator[Path]:
    """The runs whose settings.json names a release, by its digest in the path or by its store's checksum."""
    for path in sorted(runs.rglob("settings.json")):
        try:
            settings = read_json(path)
        except InputError:
            continue
        start = settings.get("start") if isinstance(settings, dict) else None
        data = json.dumps(start.get("data")) if isinstance(start, dict) else ""
        if any(f"/{digest}/" in data or checksum in data for digest, checksum in releases.items()):
            yield path.parent
