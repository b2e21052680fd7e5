"""Where the models of a run are: RUN/best, chosen on the dev split, and RUN/last. Imports nothing slow."""

from pathlib import Path


def model_in(folder: Path) -> Path:
    """`folder` itself if it is a model folder, or the best (else last) model of a run; `folder` if there is none."""
    if is_model(folder):
        return folder
    return next((model for name in ("best", "last") if is_model(model := folder / name)), folder)


def is_model(folder: Path) -> bool:
    """Whether it looks like a model folder."""
    return (folder / "config.json").is_file()
