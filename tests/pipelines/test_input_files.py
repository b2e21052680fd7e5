"""Every mistake in a JSON file is one line, and files are replaced completely or not at all."""

import errno
import json
import os
import tracemalloc
from contextlib import suppress

import pytest

from unisign_fast.pipelines.atomic_io import replace_json, replaced
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import parse_json, read_json


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"[" * 100_000, "nested 100000 deep"),
        (b'{"a": ' * 65 + b"1" + b"}" * 65, "nested 65 deep"),
        (b'["\\\\", ' * 70, "nested 70 deep"),
        (b"1" * 5000, "300 digits"),
        (b'["\\ud800"]', "not UTF-8"),
        (b'["\xed\xa0\x80"]', "not UTF-8"),
        (b'["\xff"]', "not UTF-8"),
        (b"", "not valid JSON"),
        (b'["a', "not valid JSON"),
        (b"[1] x", "not valid JSON"),
        ("[1]".encode("utf-16"), "not UTF-8"),
    ],
)
def test_bad_json_is_one_line(tmp_path, content, expected):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert expected in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", [["[[[[" * 100, '"{[', "\\"], {"a": [1, 2.5, None]}, "\U0001f600", [[[]]] * 100])
def test_good_json_is_read(value):
    assert (
        parse_json(json.dumps(value), "here") == value == parse_json(b"\xef\xbb\xbf" + json.dumps(value).encode(), "")
    )


@pytest.mark.parametrize(
    "content, limit",
    [(b'"' + b"\\u0041" * 2**20 + b'"', 4), (b"[" * 3 * 2**20, 12)],
    ids=["escapes", "brackets"],
)
def test_json_takes_memory_in_proportion_to_its_size(content, limit):
    """Checks beforehand take less than the values: no object for each escape or bracket."""
    tracemalloc.start()
    try:
        with suppress(InputError):
            parse_json(content, "here")
        assert tracemalloc.get_traced_memory()[1] < limit * len(content)
    finally:
        tracemalloc.stop()


def test_a_size_beyond_the_limit_and_a_folder(tmp_path):
    (tmp_path / "a").write_text("[1, 2, 3]")
    with pytest.raises(InputError, match="is larger than 5 bytes"):
        read_json(tmp_path / "a", max_bytes=5)
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path)


def test_a_line_for_the_terminal_has_no_control_characters():
    error = str(InputError("a\x1b[2J\nb\ud800", "x" * 10_000, "y"))
    assert error.startswith("a\\x1b[2J b\\ud800: xxx") and error.isprintable() and len(error) < 5000


def test_what_is_not_finished_leaves_the_old_file(tmp_path):
    path = tmp_path / "new" / "a.json"
    replace_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), replaced(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(InputError) as caught, replaced(path) as part:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert f"{path}: cannot be written (No space left on device)" in str(caught.value)
    assert read_json(path) == {"a": 1} and os.listdir(path.parent) == ["a.json"]


def test_a_folder_is_replaced(tmp_path):
    for content in "ab":
        with replaced(tmp_path / "folder") as part:
            (part / "deep").mkdir(parents=True)
            (part / "deep" / "file").write_text(content)
        assert (tmp_path / "folder" / "deep" / "file").read_text() == content


def test_a_new_file_is_readable_by_whoever_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        with replaced(tmp_path / "a") as part:
            part.write_text("a")
            part.chmod(0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
