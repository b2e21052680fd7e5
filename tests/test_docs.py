"""Documents name places that are there: links, files in code spans, commands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("kernels/**/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
CODE_PATH = re.compile(r"`((?:unisign_fast|kernels|pipelines|launch|benchmarks|tests|docs)/[\w./-]*\w)`")
COMMAND = re.compile(r"\b(?:python|bash|deepspeed) ((?:launch|benchmarks|tests|docs)/\w[\w/.]*\.(?:py|sh))")


def missing_places(page: Path) -> list[str]:
    """Relative links, paths in code spans and scripts in commands that do not exist."""
    text = page.read_text(encoding="utf-8")
    links = [page.parent / link for link in LINK.findall(text) if not re.match(r"[a-z]+:", link)]
    return [
        str(place)
        for place in [*links, *(ROOT / path for path in CODE_PATH.findall(text) + COMMAND.findall(text))]
        if not place.exists()
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_place_that_a_page_names_is_there(page: Path):
    assert missing_places(page) == []


def test_a_dead_link_is_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "[a](nowhere.md) [b](https://example.org) `kernels/nothing` and python launch/nothing.py", encoding="utf-8"
    )
    assert len(missing_places(page)) == 3


def test_the_readme_fits_on_150_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
