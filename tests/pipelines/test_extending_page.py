"""The examples of docs/extending.md, run in a copy of the packages that they extend."""

import importlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clip_stores import batch_of, pose, reader, write_store
from conftest import ROOT

from unisign_fast.pipelines.clips.augmentation import TRANSFORMS
from unisign_fast.pipelines.settings import DataSettings

PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
MODULES = dict(re.findall(r"```python file=(\S+)\n(.*?)```", PAGE, re.DOTALL))
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def copied(tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of the data path, imported as `pipelines`, into which the examples may be written."""
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    for name, code in MODULES.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "pipelines"
    for name in [name for name in sys.modules if name.split(".")[0] == "pipelines"]:
        del sys.modules[name]


def add_line(file: Path, before: str, line: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1
    file.write_text(text.replace(before, f"{line}\n{before}"), encoding="utf-8")


def test_a_label_format_is_a_file_and_a_line(copied, tmp_path):
    add_line(copied / "converters/labels/__init__.py", '        "own_table",', '        "phoenix",')
    path = tmp_path / "PHOENIX-2014-T.dev.corpus.csv"
    rows = ["name|video|start|end|speaker|orth|translation", "a|a/1/*.png|-1|-1|S1|REGEN KOMMEN|es regnet ."]
    path.write_text("\n".join([*rows, "b|b/1/*.png|-1|-1|S2|SONNE|"]), encoding="utf-8")
    labels, bad = importlib.import_module("pipelines.converters.labels").read_labels(path)
    assert [(label.id, label.split, label.text, label.gloss) for label in labels] == [
        ("a", "dev", "es regnet .", "REGEN KOMMEN")
    ]
    assert [error.where.rsplit(": ", 2)[1:] for error in bad] == [["line 3", "text"]]


def test_a_pose_format_is_a_file_and_a_line(copied, tmp_path):
    add_line(copied / "converters/formats.py", '    "pose": "dot_pose",', '    "csv": "csv_pose",')
    keypoints = pose(5).astype(np.float32)
    (tmp_path / "poses").mkdir()
    for name, rows in (("a", keypoints.reshape(5, -1)), ("b", keypoints[0, :132])):
        np.savetxt(tmp_path / "poses" / f"{name}.csv", rows, delimiter=",")
    read_pose = importlib.import_module("pipelines.converters.formats").pose_format("csv").read_pose
    np.testing.assert_allclose(read_pose(tmp_path / "poses/a.csv").keypoints, keypoints, rtol=1e-6)
    refusal = importlib.import_module("pipelines.errors").InputError
    with pytest.raises(refusal, match="b.csv: is not a table of 133 x 3 numbers"):
        read_pose(tmp_path / "poses/b.csv")


def test_the_examples_of_languages():
    exec(compile(next(code for code in EXAMPLES if "read_language" in code), "docs/extending.md", "exec"), {})


def test_a_skeleton_is_a_file_and_a_line(copied, tmp_path):
    add_line(copied / "skeletons/__init__.py", '                "openpose",', '                "upper_body",')
    skeleton = importlib.import_module("pipelines.skeletons").find_skeleton("upper-body-51", "test")
    store_module = importlib.import_module("pipelines.store.keypoint_store")
    source = {"estimator": "test", "version": "1", "coordinates": "fractions"}
    said = {"id": "a", "split": "train", "language": "en", "text": "t", "fps": 25.0, "width": 64, "height": 64}
    keypoints = pose(6)[:, :51]
    with store_module.KeypointStoreWriter(tmp_path / "store", source, skeleton=skeleton) as writer:
        writer.add(keypoints, **said)
    store = store_module.KeypointStore.open(tmp_path / "store")
    assert store.skeleton is skeleton and store.keypoints(store.clips[0]).shape == (6, 51, 3)
    normalize_parts = importlib.import_module("pipelines.clips.keypoint_normalization").normalize_parts
    packed = normalize_parts(store.packed_keypoints(store.clips[0]), store.skeleton)
    assert packed.shape == (6, 9 + 21 + 21 + 3, 3) and packed.any()


def test_a_transform_is_a_function_and_a_line(tmp_path, monkeypatch):
    known = dict(TRANSFORMS)
    try:
        exec(compile(next(code for code in EXAMPLES if "mirror_time" in code), "docs/extending.md", "exec"), {})
        store = write_store(tmp_path, [{}])
        plain, mirrored = (
            batch_of(reader(store, DataSettings(p_samp=0, augment=augment)), [0]).poses.numpy()
            for augment in ((), ("mirror_time=1",))
        )
    finally:
        TRANSFORMS.clear()
        TRANSFORMS.update(known)
    np.testing.assert_allclose(mirrored, plain[::-1], atol=1e-6)
