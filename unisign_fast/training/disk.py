"""Disk errors as one-line messages, and folders sealed by a manifest of their files' checksums."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from unisign_fast.pipelines.atomic_io import replace_text, sync_to_disk
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import read_json

MANIFEST = "manifest.json"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MAX_MANIFEST = 2**26  # bytes; a real one has a few kilobytes


class Incomplete(Exception):
    """A folder is not complete and unchanged since it was sealed; the message says why."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Convert a disk error while writing below `folder` into an InputError that names the folder."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors gives errno only in its message
        number = error.errno if isinstance(error, OSError) else _number(str(error))
        if number is None:
            raise
        remedy = "free disk space" if number in NO_ROOM else "make it writable, or name another folder"
        remedy = f"{remedy}; the same command resumes"
        raise InputError(folder, f"cannot be written ({os.strerror(number)})", remedy) from None


def _number(message: str) -> int | None:
    number = re.search(r"os error (\d+)", message)
    return int(number[1]) if number else None


def seal(folder: Path, state: dict, files: dict[str, tuple[int, str]]) -> None:
    """Write the manifest of a folder: its `files` (name: size and SHA-256), already on disk, and the JSON `state`."""
    for path in (*(path for path in folder.rglob("*") if path.is_dir()), folder, folder.parent):
        sync_to_disk(path)  # so that the directory entries are on disk
    content = {"state": state, "files": files}
    replace_text(folder / MANIFEST, json.dumps(content | {"sha256": _digest(content)}, indent=1))


def sync_and_hash(path: Path) -> tuple[int, str]:
    """Sync a file to disk, and return its size in bytes and its SHA-256."""
    sync_to_disk(path)
    return path.stat().st_size, _sha256(path)


def sealed_state(folder: Path) -> dict:
    """The state in a folder's manifest. Raises Incomplete unless every file matches the manifest."""
    if folder.is_symlink() or not folder.is_dir():
        raise Incomplete("is not a folder")
    try:
        if not (folder / MANIFEST).exists():
            raise Incomplete("was not saved completely")
        state, files = _checked(read_json(folder / MANIFEST, max_bytes=MAX_MANIFEST))
    except InputError as error:
        raise Incomplete(f"{MANIFEST} {error.problem}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Incomplete(f"{MANIFEST} is damaged ({error})") from None
    try:
        for name, (size, _) in files.items():
            path = folder / name
            actual_size = path.stat().st_size if path.is_file() else None
            if actual_size != size:
                problem = "is missing" if actual_size is None else f"has {actual_size} bytes instead of {size}"
                raise Incomplete(f"{name} {problem}")
        for name, (_, digest) in files.items():
            if _sha256(folder / name) != digest:
                raise Incomplete(f"{name} does not match its checksum")
    except OSError as error:
        raise Incomplete(f"a file cannot be read ({error.strerror})") from None
    return state


def _checked(manifest: Any) -> tuple[dict, dict[str, list]]:
    """State and files of a manifest; raises ValueError, TypeError or KeyError if it is malformed."""
    state, files = manifest["state"], manifest["files"]
    if not isinstance(state, dict) or not isinstance(files, dict) or not files:
        raise ValueError("state or files are missing")
    for name, (size, digest) in files.items():
        if type(size) is not int or type(digest) is not str or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"the entry {name!r} does not describe a file")
    if "sha256" in manifest and manifest["sha256"] != _digest({"state": state, "files": files}):
        raise ValueError("it does not match its checksum")
    return state, files


def write_files(folder: Path, write: Callable[[Path], object]) -> None:
    """Replace files in `folder` with those that `write(staging)` writes, each atomically.

    For a folder that must always be usable, such as the best weights so far. Only one process may call it.
    """
    staging = folder.with_name(folder.name + ".unfinished")
    with writing(folder):
        remove(staging)
        staging.mkdir(parents=True)
        try:
            write(staging)
            folder.mkdir(exist_ok=True)
            for path in sorted(staging.iterdir()):
                sync_to_disk(path)
                os.replace(path, folder / path.name)
            sync_to_disk(folder)
        finally:
            remove(staging)  # a failed attempt must not fill the disk


def remove(path: Path) -> None:
    """Remove a folder with its contents, a file, or a link; do nothing if there is none."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
