"""Label files of the form that Uni-Sign publishes."""

import gzip
import json
import pickle
from collections import OrderedDict

import pytest
from refusals import refusal

from unisign_fast.pipelines.converters.labels import read_labels


def test_a_csl_news_list_is_split_as_published(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps([{"video": f"{i}.mp4", "pose": f"{i}.pkl", "text": "a"} for i in range(250)]))
    labels, bad = read_labels(path)
    assert not bad and [label.split for label in labels] == ["train"] * 247 + ["test"] * 3
    assert {label.split for label in read_labels(path, split="dev")[0]} == {"dev"}


@pytest.mark.parametrize("compressed", [True, False])
def test_pickled_labels(tmp_path, compressed):
    rows = OrderedDict(
        {
            "-a:b": {"name": "-a:b", "text": "他今年四岁。", "gloss": ["他", "今天", "4"], "video_path": "x/-a:b.mp4"},
            "w": {"name": "w", "text": "  a  b ", "gloss": "", "video_path": "w.mp4"},
            "n.25": {"name": "n.25", "text": "you\xe2\x80\x99re 5\xc2\xbd", "video_path": "n.25.mp4"},
        }
    )
    content = pickle.dumps(rows)
    path = tmp_path / "labels"
    path.write_bytes(gzip.compress(content) if compressed else content)
    labels, bad = read_labels(path, split="dev")
    assert [(label.id, label.text, label.gloss) for label in labels] == [
        ("-a:b", "他今年四岁。", "他 今天 4"), ("w", "a b", ""), ("n.25", "you’re 5½", ""),
    ]  # fmt: skip
    assert not bad and [(label.pose, label.video) for label in labels] == [("x/-a:b",) * 2, ("w",) * 2, ("n.25",) * 2]
    assert "clip -a:b: split: is missing; say --split" in refusal(read_labels, path)
    for name, split in {"labels.train": "train", "labels-2000.dev": "dev", "How2Sign.test": "test"}.items():
        assert read_labels(path.rename(tmp_path / name))[0][0].split == split
        path = tmp_path / name


def test_dict_labels_in_json(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"00295": {"split": "train", "text": "a"}, "01610": {"split": "val", "text": "a"}}))
    labels, _ = read_labels(path)
    assert [(label.id, label.split, label.pose, label.video) for label in labels] == [
        ("00295", "train", "00295", "00295"), ("01610", "dev", "01610", "01610"),
    ]  # fmt: skip


def test_a_bad_entry_is_named_and_the_rest_is_there(tmp_path):
    path = tmp_path / "labels.json"
    rows = [{"video": "a.mp4", "text": "a"}, {"video": "b.mp4"}, 3, {"video": "c/d.mp4", "text": "d"}]
    path.write_text(json.dumps(rows))
    labels, bad = read_labels(path)
    assert [label.id for label in labels] == ["a", "c/d"]
    assert [str(error).split(": ", 1)[1].split(";")[0] for error in bad] == [
        "entry 1: text: is missing", "entry 2: is a int",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "is neither JSON nor"),
        (b"\xff\xfe", "is neither JSON nor"),
        (b'[{"video": "a.mp4", "te', "is not valid JSON"),
        (b"<!DOCTYPE html>", "is neither JSON nor a pickle"),
        (b"[]", "holds no clips"),
        (b"{}", "holds no clips"),
        (b"3", "holds no list or dict of clips"),
        (b'["a"]', "entry 0: is a str"),
        (b'[{"text": "a"}]', "entry 0: video: is missing"),
        (b'[{"video": "", "text": "a"}]', "entry 0: video: is ''"),
        (b'[{"video": "a.mp4", "text": 3}]', "entry 0: text: is 3"),
        (b'[{"video": "a.mp4", "text": " "}]', "entry 0: text: is empty"),
        (b'{"a": {"text": "a", "split": "dove"}}', "clip a: split: is 'dove'"),
        (gzip.compress(pickle.dumps({"a": {}}), mtime=0)[:-12], "is not a complete gzip file"),
        (gzip.compress(pickle.dumps({"a": {}})[:-2], mtime=0), "is not a complete pickle"),
        (gzip.compress(pickle.dumps({"a": print}), mtime=0), "names builtins.print"),
    ],
)
def test_bad_label_files(tmp_path, content, expected):
    path = tmp_path / "labels"
    path.write_bytes(content)
    message = refusal(read_labels, path)
    assert message.startswith(str(path)) and expected in message


def test_a_missing_label_file(tmp_path):
    assert "cannot be read (No such file" in refusal(read_labels, tmp_path / "labels")


def test_released_label_files(shared):
    daily, bad = read_labels(shared / "labels" / "CSL_Daily.labels.dev")
    assert len(daily) == 1077 and not bad and {label.split for label in daily} == {"dev"}
    assert daily[0].gloss == "他 今天 年龄 4" and daily[0].pose == "S000020_P0000_T00"
    wlasl, _ = read_labels(shared / "labels" / "WLASL.labels-2000.dev")
    assert len(wlasl) == 3916 and (wlasl[0].id, wlasl[0].text, wlasl[0].gloss) == ("00295", "a", "")
    assert len(read_labels(shared / "wlasl" / "labels.json")[0]) == 20
