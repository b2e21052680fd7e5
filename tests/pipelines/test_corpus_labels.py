"""Label files as the corpora's own authors release them."""

import csv
import json
import pickle

import pytest
from refusals import refusal

from unisign_fast.pipelines.converters.labels import read_labels


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, (str, bytes)):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    else:
        path.write_text(json.dumps(content), encoding="utf-8")
    return path


def daily_row(name):
    return {"name": name, "length": 30, "label_gloss": ["茶", "喜欢"], "label_char": list("我喜欢茶。"),
            "label_word": ["我", "喜欢", "茶", "。"], "label_postag": ["r", "v", "n", "w"]}  # fmt: skip


def test_csl_daily_takes_its_splits_from_the_file_beside_it(tmp_path):
    content = {"info": [daily_row(f"S{i}_P0000_T00") for i in range(4)], "gloss_map": ["茶"], "char_map": []}
    path = write(tmp_path / "csl2020ct_v2.pkl", pickle.dumps(content))
    assert "entry 0: split: is missing; say --split" in refusal(read_labels, path)
    write(tmp_path / "split_1.txt", "name|split\nS0_P0000_T00|train\nS1_P0000_T00|dev\nS2_P0000_T00|test\n")
    labels, bad = read_labels(path)
    assert [(label.id, label.split) for label in labels] == [
        ("S0_P0000_T00", "train"), ("S1_P0000_T00", "dev"), ("S2_P0000_T00", "test"),
    ]  # fmt: skip
    assert {(label.text, label.gloss) for label in labels} == {("我喜欢茶。", "茶 喜欢")}
    assert len(bad) == 1 and "entry 3: split: is missing" in str(bad[0])


WLASL = [
    {"gloss": "tea", "instances": [{"video_id": "00001", "split": "train"}, {"video_id": "00002", "split": "val"}]},
    {"gloss": "come here", "instances": [{"video_id": "00003", "split": "test"}, "00004"]},
    {"gloss": "water"},
]


def test_wlasl_and_its_first_words(tmp_path):
    path = write(tmp_path / "WLASL_v0.3.json", WLASL)
    labels, bad = read_labels(path)
    assert [(label.id, label.split, label.text) for label in labels] == [
        ("00001", "train", "tea"), ("00002", "dev", "tea"), ("00003", "test", "come here"),
    ]  # fmt: skip
    assert [str(error).split(": ", 1)[1].split(";")[0] for error in bad] == [
        "entry 1: is a str", "entry 2: is not a word with instances",
    ]  # fmt: skip
    assert [label.id for label in read_labels(path, classes=1)[0]] == ["00001", "00002"]


@pytest.mark.parametrize("words", ["WLASL_v0.3.json", "wlasl_class_list.txt"])
def test_wlasl_subsets_take_their_words_from_the_file_beside_them(tmp_path, words):
    row = {"subset": "val", "action": [1, 1, 55]}
    path = write(tmp_path / "nslt_100.json", {"00003": row, "00009": {"subset": "train", "action": [7, 1, 9]}})
    assert "has no words, and neither WLASL_v0.3.json nor" in refusal(read_labels, path)
    write(tmp_path / words, WLASL[:2] if words.endswith("json") else "0\ttea\n1\tcome here\n")
    (label,), bad = read_labels(path)
    assert (label.id, label.split, label.text) == ("00003", "dev", "come here")
    assert len(bad) == 1 and "clip 00009: text: is missing" in str(bad[0])
    assert "--classes: " in refusal(read_labels, path, classes=100)


def msasl_row(**changes):
    row = {"url": "https://www.youtube.com/watch?v=-abc_DEF123", "start_time": 1.5, "end_time": 3.0, "start": 45,
           "end": 90, "fps": 30.0, "label": 7, "text": "tea", "clean_text": "tea", "signer_id": 1}  # fmt: skip
    return row | changes


def test_msasl_clips_are_parts_of_recordings(tmp_path):
    rows = [msasl_row(), msasl_row(label=120, text="water", start=100), msasl_row(url="nowhere"), msasl_row(label=None)]
    path = write(tmp_path / "MSASL_val.json", rows)
    labels, bad = read_labels(path)
    assert [(label.id, label.text) for label in labels] == [
        ("-abc_DEF123_45_90", "tea"),
        ("-abc_DEF123_100_90", "water"),
    ]
    first = labels[0]
    assert (first.split, first.recording, first.start, first.end) == ("dev", "-abc_DEF123", 1.5, 3.0)
    assert len(bad) == 2 and "entry 2: name: is ''" in str(bad[0]) and "entry 3: label: is None" in str(bad[1])
    assert [label.text for label in read_labels(path, classes=100)[0]] == ["tea"]
    write(tmp_path / "MSASL_classes.json", [*"abcdefg", "green tea"])
    assert [label.text for label in read_labels(path)[0]] == ["green tea", "water"]
    write(tmp_path / "MSASL_classes.json", {"0": "tea"})
    assert "MSASL_classes.json: is not a list of words" in refusal(read_labels, path)


HOW2SIGN = """VIDEO_ID,VIDEO_NAME,SENTENCE_ID,SENTENCE_NAME,START_REALIGNED,END_REALIGNED,SENTENCE
-v,-v-1-rgb_front,-v_0,-v_0-1-rgb_front,12.97,19.5,"Tea, it\xe2\x80\x99s good."
-v,-v-1-rgb_front,-v_1,-v_1-1-rgb_front,20,24.25,  Two  spaces \xc3\x85.
-v,-v-1-rgb_front,-v_2,-v_2-1-rgb_front,30,29,Never.
-v,-v-1-rgb_front,-v_3
"""


@pytest.mark.parametrize("separator", [",", "\t"])
def test_how2sign_in_either_form(tmp_path, separator):
    content = HOW2SIGN.replace('"Tea, it', "Tea, it").replace('good."', "good.") if separator == "\t" else HOW2SIGN
    lines = content.strip().split("\n")
    if separator == "\t":
        lines = [line.replace(",", "\t", 6) for line in lines]
    path = write(tmp_path / "how2sign_realigned_val.csv", "\n".join(lines) + '\n-v\t"x\t\t\t\t\t\n')
    labels, bad = read_labels(path)
    assert [(label.id, label.text) for label in labels] == [
        ("-v_0-1-rgb_front", "Tea, it’s good."), ("-v_1-1-rgb_front", "Two spaces Å."),
    ]  # fmt: skip
    first = labels[0]
    assert (first.split, first.recording, first.start, first.end) == ("dev", "-v-1-rgb_front", 12.97, 19.5)
    assert "line 4: start, end: 30.0 to 29.0 s is not a range" in str(bad[0])
    assert "line 5: has 3 fields, the header 7" in str(bad[1]) and len(bad) == 3


def test_openasl(tmp_path):
    header = "vid\tyid\tstart\tend\traw-text\ttokenized-text\tgloss\tsplit"
    name = "1nFdgokPwBw-00:00:14.100-00:00:17.266"
    line = f"{name}\t1nFdgokPwBw\t00:01:14.100\t00:01:17.266\tTea?\ttea ?\t\tvalid"
    path = write(tmp_path / "openasl-v1.0.tsv", f"{header}\n{line}\n")
    (label,), bad = read_labels(path)
    assert (label.id, label.pose, label.video, label.recording) == (name, name, name, "1nFdgokPwBw") and not bad
    assert (label.split, label.text, label.start) == ("dev", "Tea?", pytest.approx(74.1))


OWN = [
    ["name", "text", "gloss", "split"],
    ["a.mp4", "Tea, and water.", "TEA WATER", "train"],
    ["sub/b", "  Ein  Tee; danke ", "", "val"],
    ["c", "", "", "test"],
    ["d", "No split.", "", ""],
]


@pytest.mark.parametrize("separator, suffix", [(",", "csv"), (";", "csv"), ("\t", "tsv")])
def test_a_table_of_ones_own(tmp_path, separator, suffix):
    with open(tmp_path / f"labels.{suffix}", "w", encoding="utf-8-sig", newline="") as file:  # as spreadsheets save it
        csv.writer(file, delimiter=separator).writerows([*OWN, ["e", "left open"]])
    labels, bad = read_labels(tmp_path / f"labels.{suffix}")
    assert [(label.split, label.text, label.gloss, label.video) for label in labels] == [
        ("train", "Tea, and water.", "TEA WATER", "a"), ("dev", "Ein Tee; danke", "", "sub/b"),
    ]  # fmt: skip
    assert [str(error).split(": ", 1)[1].split(";")[0] for error in bad] == [
        "line 4: text: is empty", "line 5: split: is missing", "line 6: has 2 fields, the header 4",
    ]  # fmt: skip


def test_a_table_of_names_and_texts_alone_takes_its_split_from_elsewhere(tmp_path):
    path = write(tmp_path / "train.csv", "text,name\nTea.,a\n")
    assert [(label.id, label.split, label.gloss) for label in read_labels(path)[0]] == [("a", "train", "")]
    assert [label.split for label in read_labels(path, split="test")[0]] == ["test"]
    assert "has columns name; give name, text, gloss, split or" in refusal(
        read_labels, write(tmp_path / "a.csv", "name\na\n")
    )


def test_a_table_of_something_else(tmp_path):
    assert "has columns a, b; give name, text, gloss, split or SENTENCE_NAME, " in refusal(
        read_labels, write(tmp_path / "labels.csv", "a,b\n1,2\n")
    )
    assert "has columns (none)" in refusal(read_labels, write(tmp_path / "empty.csv", ""))


def test_youtube_asl_has_a_clip_per_caption(tmp_path):
    write(tmp_path / "captions" / "-aa.en.vtt",
          "WEBVTT\nKind: captions\n\n00:00:01.000 --> 00:00:02.500 align:start\nTea &amp; <c>water</c>\nagain\n\n"
          "00:03.000 --> 00:04.000\nMore.\n")  # fmt: skip
    write(tmp_path / "bb.srt", "1\r\n00:00:05,000 --> 00:00:06,000\r\nSrt.\r\n")
    write(tmp_path / "cc.json", [{"text": "Json.", "start": 1.5, "duration": 2.0}])
    write(tmp_path / "dd.json", '[{"text": ')
    path = write(tmp_path / "youtube_asl_video_ids.txt", "-aa\nbb\ncc\ndd\nee\n")
    labels, bad = read_labels(path, split="train")
    assert [(label.id, label.text, label.recording, label.start, label.end) for label in labels] == [
        ("-aa-000", "Tea & water again", "-aa", 1.0, 2.5), ("-aa-001", "More.", "-aa", 3.0, 4.0),
        ("bb-000", "Srt.", "bb", 5.0, 6.0), ("cc-000", "Json.", "cc", 1.5, 3.5),
    ]  # fmt: skip
    assert len(bad) == 2 and "dd.json: is not valid JSON" in str(bad[0]) and "ee: has no captions" in str(bad[1])


def test_cells_in_quotes_hold_line_breaks_and_are_long(tmp_path):
    long = "word " * 40_000
    path = write(
        tmp_path / "labels.csv", f'name,text,split\r\na,"one\r\ntwo ""three""",train\nb,{long},dev\nc,"x\n\ny",test\n'
    )
    labels, bad = read_labels(path)
    assert [label.text for label in labels] == ['one two "three"', long.strip(), "x y"] and not bad


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_tables_of_every_system(tmp_path, line_end):
    path = tmp_path / "LABELS.CSV"
    path.write_bytes(line_end.join(["name,text,split", 'a,"one', 'two",train', "b,three,dev", ""]).encode())
    labels, bad = read_labels(path)
    assert [(label.id, label.text) for label in labels] == [("a", "one two"), ("b", "three")] and not bad


def test_a_carriage_return_within_a_row_costs_that_row(tmp_path):
    labels, bad = read_labels(write(tmp_path / "labels.csv", "name,text,split\na,x\ry,train\nb,z,train\n"))
    assert [label.id for label in labels] == ["b"] and all("fields, the header 3" in str(error) for error in bad)


@pytest.mark.parametrize("text", ["", " \u3000", "\u200b\u202e", "\x00", "\ufeff", "\u0301", "\ufffd", "\u3164"])
def test_a_text_without_a_visible_character_is_none(tmp_path, text):
    labels, bad = read_labels(write(tmp_path / "labels.csv", f"name,text,split\na,{text},train\nb,x,train\n"))
    assert [label.id for label in labels] == ["b"] and "line 2: text: is empty" in str(bad[0])


def test_control_characters_and_byte_order_marks_are_dropped_joiners_kept(tmp_path):
    path = write(tmp_path / "labels.csv", "name,text,split\na,\ufeffh\0i \u200b\u0645\u06cc\u200c\u062e, train\n")
    assert [label.text for label in read_labels(path)[0]] == ["hi \u200b\u0645\u06cc\u200c\u062e"]


def test_a_column_or_an_id_that_occurs_twice_is_named(tmp_path):
    table = write(tmp_path / "labels.csv", "name,text,text,split\na,one,two,train\n")
    assert "labels.csv: has 2 columns text; keep one of them" in refusal(read_labels, table)
    clips = write(tmp_path / "labels_train.json", '{"a": {"name": "a", "text": "x"}, "a": {"name": "a", "text": "y"}}')
    assert "'a' occurs twice in one object" in refusal(read_labels, clips)


def test_glosses_that_are_no_words_are_named(tmp_path):
    clips = {"a": {"name": "a", "text": "x", "gloss": ["TEA", None]}}
    assert "clip a: gloss: is ['TEA', None]" in refusal(read_labels, write(tmp_path / "labels_train.json", clips))


def test_a_text_of_millions_of_characters_is_refused(tmp_path):
    labels, bad = read_labels(write(tmp_path / "labels.csv", f"name,text,split\na,{'x ' * 2**20},train\nb,x,train\n"))
    assert [label.id for label in labels] == ["b"] and "line 2: text: has 2097152 characters" in str(bad[0])


def test_a_quote_that_is_never_closed_costs_one_line(tmp_path):
    path = write(tmp_path / "labels.csv", 'name,text,split\na,"one,train\nb,two,train\nc,three "x",train\n')
    labels, bad = read_labels(path)
    assert [(label.id, label.text) for label in labels] == [("a", '"one'), ("b", "two"), ("c", 'three "x"')]


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "x" * 300, "a\0b"])
def test_names_stay_inside_their_folders(tmp_path, name):
    rows = [{"video": name, "text": "a", "split": "train"}, {"video": "good/b.mp4", "text": "a", "split": "train"}]
    labels, bad = read_labels(write(tmp_path / "labels.json", rows))
    assert [label.video for label in labels] == ["good/b"] and len(bad) == 1 and "video: " in str(bad[0])


@pytest.mark.parametrize("start", ["nan", 1e999, "1e400", [], "1:x", "00:00:01:10", "1:-59"])
def test_odd_times_are_named(tmp_path, start):
    row = {"url": "v=abcdefghijk", "label": 0, "text": "a", "start_time": start, "end_time": 3}
    assert "start" in refusal(read_labels, write(tmp_path / "MSASL_train.json", [row]))


def test_captions_are_chosen_by_language(tmp_path):
    def vtt(text):
        return f"WEBVTT\n\n00:01.000 --> 00:02.000\n{text}\n"

    path = write(tmp_path / "youtube_asl_video_ids.txt", "aa\nbb\ncc\ndd\n../ee\n")
    files = {"aa.de.vtt": "Hallo", "aa.en-US.vtt": "Hello", "bb.de.vtt": "Nein", "cc.vtt": "Any", "dd.en.vtt": "Yes"}
    for name, text in files.items():
        write(tmp_path / "captions" / name, vtt(text))
    write(tmp_path / "captions" / "dd.comments.json", {"comments": []})
    labels, bad = read_labels(path, split="train", language="en")
    assert [label.text for label in labels] == ["Hello", "Any", "Yes"]
    assert "bb: has captions in de and none in en" in str(bad[0])
    assert "is not the name of a YouTube video" in str(bad[1])
    labels, bad = read_labels(path, split="train")
    assert "aa: has captions in several languages: de, en; say --language" in str(bad[0])
    assert [label.text for label in labels] == ["Nein", "Any", "Yes"]
