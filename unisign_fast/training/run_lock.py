"""A lock on a run folder, so that only one training uses it; the kernel releases it when its holders die."""

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import read_json
from unisign_fast.utils.distributed import Ranks

NAME = "lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # errors of file systems without locks


@contextmanager
def locked(run: Path, ranks: Ranks) -> Iterator[None]:
    """Hold RUN/lock on every rank. Raises InputError, naming the holder, while a rank of another start is alive.

    The file is removed at the end, and so is the folder if nothing else was written into it. A file left behind by a
    killed run does not hold a lock.
    """
    made: list[Path] = []
    if ranks.is_first:
        made = [folder for folder in (run, *run.parents) if not folder.exists()]
    file = ranks.together(lambda: _take(run) if ranks.is_first else None)
    if ranks.world_size > 1:  # shared from here on: it must outlive rank 0 if another rank does
        file = ranks.together(lambda: _share(run, file))
    try:
        yield
    finally:
        if ranks.is_first:
            with suppress(OSError):
                (run / NAME).unlink()
            for folder in made:
                with suppress(OSError):  # not empty
                    folder.rmdir()
        if file is not None:
            os.close(file)


def _take(run: Path) -> int | None:
    """Lock the file and record the holder in it; returns its descriptor, or None if the file system has no locks."""
    path = run / NAME
    try:
        run.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), path.stat()):
                    break
            os.close(file)  # its holder removed it just now
        os.ftruncate(file, 0)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "command": sys.argv}
        os.write(file, json.dumps(who, ensure_ascii=False).encode())
        return file
    except BlockingIOError:
        raise _in_use(run) from None
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            print(f"warning: {run}: its file system has no locks: start only one training at a time", file=sys.stderr)
            return None
        raise InputError(run, f"cannot be written ({error.strerror})", "name a writable folder") from None


def _share(run: Path, file: int | None) -> int | None:
    """Share the lock that rank 0 took; returns this rank's descriptor, or None if the file system has no locks."""
    try:
        if file is None:
            file = os.open(run / NAME, os.O_RDWR)
        fcntl.flock(file, fcntl.LOCK_SH)
        return file
    except FileNotFoundError:
        raise InputError(run, "is not the same folder on every rank", "name one on a shared file system") from None
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            return None
        raise


def _in_use(run: Path) -> InputError:
    try:
        who: Any = read_json(run / NAME, max_bytes=2**16)
        holder = f"process {who['pid']} on {who['host']} has been training in it since {who['since']}"
    except (InputError, KeyError, TypeError):
        holder = "another process is training in it"
    return InputError(run, f"is in use: {holder}", "wait until it ends, or name another folder with --out")
