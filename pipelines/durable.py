"""Making sure that what was written outlives a loss of power."""

import os
from pathlib import Path


def sync_to_disk(path: Path) -> None:
    """Returns when the file's bytes, or the folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
