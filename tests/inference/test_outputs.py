"""The output file of translate.py: checked before anything is loaded, and kept when the translation is interrupted."""

import json

import pytest

from unisign_fast.inference.outputs import check_output, open_output
from unisign_fast.inference.translator import Translation
from unisign_fast.pipelines.errors import InputError

LINE = Translation("a.mp4", "a", "good morning", -0.5, 0.0, 1.5, 0.1, "en", "")


def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        (tmp_path / "b.jsonl").mkdir()
        check_output(tmp_path / "b.jsonl", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"c.jsonl: cannot be written"):
        check_output(tmp_path / "file" / "c.jsonl", 1)
    check_output(tmp_path / "new" / "d.srt", 1)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("suffix", ["jsonl", "srt"])
def test_ctrl_c_keeps_what_is_translated(tmp_path, suffix):
    out = tmp_path / f"a.{suffix}"
    with pytest.raises(KeyboardInterrupt), open_output(out) as write:
        write(LINE)
        raise KeyboardInterrupt
    text = out.read_text()
    assert json.loads(text)["text"] == LINE.text if suffix == "jsonl" else "00:00:01,500\n" + LINE.text in text


def test_without_a_translation_the_previous_file_stays(tmp_path):
    (tmp_path / "a.jsonl").write_text("before")
    with pytest.raises(KeyboardInterrupt), open_output(tmp_path / "a.jsonl"):
        raise KeyboardInterrupt
    assert (tmp_path / "a.jsonl").read_text() == "before"
