"""Atomic file writes: write under a temporary name, fsync, then rename.

After a crash at any moment, a file is either complete in its old version or complete in its new one.
"""

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from .errors import InputError

PART = ".part"  # suffix of unfinished files and folders


def sync_to_disk(path: Path) -> None:
    """Flushes a file's bytes, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(path: Path) -> None:
    """Flushes a file, or a folder with everything in it, to disk."""
    for inside in sorted(path.rglob("*")):
        sync_to_disk(inside)
    sync_to_disk(path)


@contextmanager
def replaced(path: Path, writer: str = "") -> Iterator[Path]:
    """`with replaced(path) as part`: write the file or folder `part`; it takes the name `path` when the block ends.

    Creates missing parent folders. A new file gets the mode that the umask allows, regardless of how it was written.
    If the block raises, `path` is unchanged and `part` is removed. Data is on disk before the new name is. Concurrent
    writers of one path must pass distinct `writer` suffixes. Raises InputError if the file system reports an error.
    """
    path = Path(path).absolute()
    part = path.with_name(f"{path.name}{PART}{writer}")
    with writing_to(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove(part)
            mode = _mode_of_new(part)
            yield part
            if not part.is_dir():
                part.chmod(mode)
            _sync_tree(part)
            if part.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            sync_to_disk(path.parent)
            part.rename(path)
            sync_to_disk(path.parent)
        except BaseException:
            with suppress(OSError):
                _remove(part)
            raise


@contextmanager
def created_once(path: Path, unfinished: Path) -> Iterator[Path]:
    """`with created_once(path, unfinished) as part`: write the folder `part`; it becomes `path` when the block ends.

    Any number of writers, on any machine of a shared file system, may create one `path`: the first to end wins, and
    the others' folders are removed. `unfinished` holds the folders still being written and must be on the same file
    system; clear it with `clear_unfinished`. Raises InputError if the file system reports an error.
    """
    part, made = unfinished / f"{path.name}.{uuid4().hex}", None
    with writing_to(path):
        try:
            part.mkdir(parents=True)
            made = os.open(part, os.O_RDONLY)  # while it is open, no other folder gets its number
            yield part
            _sync_tree(part)
            if not os.path.samestat(os.fstat(made), part.stat()):  # cleared, then written to again
                raise OSError(errno.ESTALE, "was cleared while it was written")
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.rename(path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            sync_to_disk(path.parent)
        finally:
            if made is not None:
                os.close(made)
            shutil.rmtree(part, ignore_errors=True)


def clear_unfinished(unfinished: Path) -> None:
    """Removes what killed writers left in the folder of `created_once`; a writer that is still running can no longer
    finish.

    The folder is renamed before its content is removed, so that no half-removed folder takes a finished name.
    """
    with writing_to(unfinished), suppress(FileNotFoundError):
        removed = unfinished.with_name(f".{unfinished.name}.{uuid4().hex}")
        unfinished.rename(removed)
    with writing_to(unfinished):
        for folder in unfinished.parent.glob(f".{unfinished.name}.*"):
            shutil.rmtree(folder)


def replace_text(path: Path, text: str) -> None:
    """Atomically replaces the file's content by `text`. Raises InputError as `replaced` does."""
    with replaced(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def replace_json(path: Path, content: object) -> None:
    """Atomically replaces the file's content by `content` as JSON. Raises InputError as `replaced` does."""
    replace_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Converts an OSError raised inside (disk full, read-only, quota) into an InputError that names `path`."""
    try:
        yield
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise InputError(path, problem, "free disk space or choose another folder, and start again") from None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _mode_of_new(path: Path) -> int:
    """The permissions that the umask gives a new file."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    return mode
