"""Label files of the published format, in each of their forms."""

import gzip
import json
import pickle
from collections import OrderedDict

import pytest

from pipelines.converters.unisign import read_labels
from pipelines.errors import InputError


def refusal(*arguments, **options):
    with pytest.raises(InputError) as caught:
        read_labels(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_csl_news_list_is_split_as_published(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps([{"video": f"{i}.mp4", "pose": f"{i}.pkl", "text": "a"} for i in range(250)]))
    splits = [label.split for label in read_labels(path, split=None)]
    assert splits == ["train"] * 247 + ["test"] * 3
    assert {label.split for label in read_labels(path, split="dev")} == {"dev"}


def test_gzip_pickle_labels(tmp_path):
    rows = OrderedDict(
        {
            "-a:b": {"name": "-a:b", "text": "他今年四岁。", "gloss": ["他", "今天", "4"], "video_path": "x/-a:b.mp4"},
            "w": {"name": "w", "text": "a", "gloss": "", "video_path": "w.mp4"},
            "n": {"name": "n", "text": "b", "video_path": "n.mp4"},
        }
    )
    path = tmp_path / "labels.dev"
    path.write_bytes(gzip.compress(pickle.dumps(rows)))
    labels = read_labels(path, split="dev")
    assert [(label.id, label.text, label.gloss) for label in labels] == [
        ("-a:b", "他今年四岁。", "他 今天 4"), ("w", "a", ""), ("n", "b", ""),
    ]  # fmt: skip
    assert (labels[0].pose, labels[0].video) == ("x/-a:b.pkl", "x/-a:b.mp4")
    assert "clip -a:b: split: is missing; say --split" in refusal(path, split=None)


def test_dict_labels_in_json(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"00295": {"split": "train", "text": "a"}, "01610": {"split": "dev", "text": "a"}}))
    labels = read_labels(path, split=None)
    assert [(label.id, label.split, label.pose, label.video) for label in labels] == [
        ("00295", "train", "00295.pkl", "00295.mp4"), ("01610", "dev", "01610.pkl", "01610.mp4"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "is neither JSON nor"),
        (b"\xff\xfe", "is neither JSON nor"),
        (b"[]", "holds no list or dict of clips"),
        (b"3", "holds no list or dict of clips"),
        (b'["a"]', "entry 0: is a str"),
        (b'[{"text": "a"}]', "entry 0: video: is missing"),
        (b'[{"video": "", "text": "a"}]', "entry 0: video: is ''"),
        (b'[{"video": "a.mp4", "text": 3}]', "entry 0: text: is 3"),
        (b'{"a": {"text": "a", "split": "val"}}', "clip a: split: is 'val'"),
        (gzip.compress(pickle.dumps({"a": {}}))[:-12], "is not a whole gzip file"),
        (gzip.compress(pickle.dumps({"a": {}})[:-2]), "is not a whole pickle"),
        (gzip.compress(pickle.dumps({"a": print})), "names builtins.print"),
    ],
)
def test_bad_label_files(tmp_path, content, expected):
    path = tmp_path / "labels"
    path.write_bytes(content)
    message = refusal(path, split=None)
    assert message.startswith(str(path)) and expected in message


def test_a_missing_label_file(tmp_path):
    assert "cannot be read (No such file" in refusal(tmp_path / "labels", split=None)


def test_released_label_files(shared):
    daily = read_labels(shared / "labels" / "CSL_Daily.labels.dev", split="dev")
    assert len(daily) == 1077 and daily[0].gloss == "他 今天 年龄 4" and daily[0].pose == "S000020_P0000_T00.pkl"
    wlasl = read_labels(shared / "labels" / "WLASL.labels-2000.dev", split="dev")
    assert len(wlasl) == 3916 and (wlasl[0].id, wlasl[0].text, wlasl[0].gloss) == ("00295", "a", "")
    assert len(read_labels(shared / "wlasl" / "labels.json", split=None)) == 20
