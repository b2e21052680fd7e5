"""Class lists of words in their formats, valid and invalid."""

import json

import pytest

from unisign_fast.evaluation.synonyms import read_class_list
from unisign_fast.pipelines.errors import InputError


@pytest.mark.parametrize("content", ["0\tbook\n1\tdry cleaners\n", "1\tbook\n2\tdry cleaners\n", "book\ndry cleaners"])
def test_one_class_per_line_numbered_or_not(tmp_path, content):
    (tmp_path / "list.txt").write_text(content)
    assert read_class_list(tmp_path / "list.txt") == {"book": "book", "dry cleaners": "dry cleaners"}


def test_synonyms_after_tabs(tmp_path):
    (tmp_path / "list.txt").write_bytes("\ufeffticket\tgive ticket\r\n7\tseven\r\nnew\r\n".encode())
    expected = {"ticket": "ticket", "give ticket": "ticket", "7": "7", "seven": "7", "new": "new"}
    assert read_class_list(tmp_path / "list.txt") == expected


def test_json_of_words_and_of_synonyms(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps(["new", ["ticket", "give ticket"]]))
    assert read_class_list(tmp_path / "list.json") == {"new": "new", "ticket": "ticket", "give ticket": "ticket"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("list.txt", b"", ["holds no classes"]),
        ("list.txt", b"book\n\nnew", ["line 2", "empty word"]),
        ("list.txt", b"book\tnew\nold\tnew", ["line 2", "'new' is already in the class 'book'", "merge the two"]),
        ("list.txt", b"\xff", ["not UTF-8"]),
        ("list.json", b"[", ["is not valid JSON"]),
        ("list.json", b'{"book": 1}', ["entry 1", "neither a word nor a list of words"]),
        ("list.json", b'["new", ["book", 3]]', ["entry 2", "neither a word"]),
        ("list.json", b'["new", []]', ["entry 2", "neither a word"]),
        ("list.json", b"[]", ["holds no classes"]),
        ("none.txt", None, ["cannot be read"]),
    ],
)
def test_a_broken_list_is_named(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_class_list(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name)) and all(word in message for word in words), message
