"""Folders that many writers create once."""

import shutil

import pytest

from unisign_fast.pipelines.atomic_io import clear_unfinished, created_once
from unisign_fast.pipelines.errors import InputError


def test_the_first_writer_wins_and_the_others_leave_nothing(tmp_path):
    path, unfinished = tmp_path / "parts" / "a", tmp_path / "unfinished"
    with created_once(path, unfinished) as slow:
        (slow / "content").write_text("slow")
        with created_once(path, unfinished) as quick:
            (quick / "content").write_text("quick")
    assert (path / "content").read_text() == "quick" and not list(unfinished.iterdir())


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError), created_once(tmp_path / "a", tmp_path / "unfinished"):
        raise ValueError
    assert not (tmp_path / "a").exists() and not list((tmp_path / "unfinished").iterdir())


def test_a_folder_that_was_cleared_while_it_was_written_is_never_finished(tmp_path):
    """Even if the writer continues and recreates its folder, whose first files are gone."""
    unfinished = tmp_path / "unfinished"
    with pytest.raises(InputError, match="cleared while"), created_once(tmp_path / "a", unfinished) as part:
        (part / "first").write_text("lost")
        clear_unfinished(unfinished)
        part.mkdir(parents=True)
        (part / "second").write_text("alone")
    assert not (tmp_path / "a").exists()
    shutil.rmtree(unfinished, ignore_errors=True)
    clear_unfinished(unfinished)  # nothing to clear
