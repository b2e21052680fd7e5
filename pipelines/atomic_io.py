"""Making sure that what was written outlives a loss of power."""

import json
import os
from pathlib import Path


def sync_to_disk(path: Path) -> None:
    """Returns when the file's bytes, or the folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_json(path: Path, content: dict) -> None:
    """Puts `content` into the place of file `path`, whole or not at all; what was synced before is never behind it."""
    unnamed = path.with_name(path.name + ".part")
    unnamed.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sync_to_disk(unnamed)
    sync_to_disk(path.parent)
    unnamed.rename(path)
    sync_to_disk(path.parent)
