"""Hand crops cut in advance: the crops read, the errors, and the remains of a killed run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_stores import RGB, SIDE, SOURCE, FakeTokenizer, batch_of, pose, video_of, write_store
from conftest import ROOT
from video_files import write_video

from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.crops.boxes import hand_boxes, side_of_clip
from unisign_fast.pipelines.crops.cutting import cut_crops
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.store.crop_store import CropStore, CropStoreWriter
from unisign_fast.pipelines.store.keypoint_store import KeypointStore, KeypointStoreWriter
from unisign_fast.pipelines.store.merge import merge_stores

LENGTHS = [9, 12, 20, 7]
FILES = {  # written once; a bad clip's reason
    "missing.mp4": "there is no such video",
    "short.mp4": "has 5 frames, but the pose of clip short is for 10",
    "text.mp4": "does not open as a video",
}


def textured(path: Path, frames: int) -> str:
    """A video whose pictures differ all over, in a codec that DALI decodes."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    pictures = [
        np.stack([(4 * x + 9 * i) % 256, (3 * y + 5 * i) % 256, 2 * (x + y)], 2).astype(np.uint8) for i in range(frames)
    ]
    smooth = [picture // 2 + 60 for picture in pictures]
    return str(write_video(path, smooth, codec="libvpx-vp9"))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> KeypointStore:
    """Four good clips and, between them, three bad ones; their crops cut."""
    folder = tmp_path_factory.mktemp("data")
    clips = [{"keypoints": pose(n, i), "source": textured(folder / f"{i}.webm", n)} for i, n in enumerate(LENGTHS)]
    video_of(folder / "short.mp4", 5)
    (folder / "text.mp4").write_text("not a video")
    bad = [{"id": name.removesuffix(".mp4"), "source": str(folder / name)} for name in FILES]
    store = write_store(folder / "store", [clips[0], bad[0], clips[1], bad[1], clips[2], bad[2], clips[3]])
    cut_crops(store, size=16, quality=90, workers=2)
    return store


def reader(store: KeypointStore, **settings) -> ClipReader:
    return ClipReader([store], DataSettings(p_samp=0.5, crop_size=16, **settings), FakeTokenizer())


def test_a_batch_from_the_store_is_that_from_the_videos(made):
    good = [0, 2, 4, 6]
    stored, from_video = (batch_of(reader(made, crops=crops), good) for crops in (None, "video"))
    assert stored.crops.shape == from_video.crops.shape == (sum(stored.crops_per_hand), 3, 16, 16)
    assert torch.equal(stored.crop_frame, from_video.crop_frame)
    assert torch.equal(stored.crop_points, from_video.crop_points)
    difference = (stored.crops.int() - from_video.crops.int()).abs().double().mean(dim=(1, 2, 3))
    assert difference.max() < 6  # JPEG of 16 pixels at quality 90
    others = (stored.crops.int() - from_video.crops.flip(0).int()).abs().double().mean()
    assert difference.mean() < others / 3


def test_the_store_has_the_crop_of_every_hand_of_every_frame(made):
    store = CropStore(made)
    clip = made.clips[4]
    frames = np.array([3, 3, 19, 0])
    files = store.jpegs(clip, frames, np.array([0, 1, 1, 0]))
    assert all(file[:2].tobytes() == b"\xff\xd8" and file[-2:].tobytes() == b"\xff\xd9" for file in files)
    assert len({file.tobytes() for file in files}) == 4
    assert store.size == 16 and store.clips == 7 and store.frames == sum(LENGTHS) + 30
    store.verify(made)


def test_boxes_do_not_depend_on_what_is_sampled(made):
    """Every epoch's boxes are those that were cut, for the frames it happens to draw."""
    r = reader(made)
    clips = r.clips("train")
    hands = made.keypoints(made.clips[4])[:, 91:].reshape(20, 2, 21, 3)
    points = hands[..., :2].astype(np.float64) * SIDE
    side = side_of_clip(points.reshape(-1, 21, 2), hands[..., 2].reshape(-1, 21))
    for epoch in range(3):
        wanted = r.read(clips[4], epoch, training=True).hands
        np.testing.assert_array_equal(wanted.boxes, hand_boxes(points[wanted.frames, wanted.hands], side))


def test_clips_that_could_not_be_cut_say_why(made):
    r = reader(made)
    loaded = r.batch(r.clips("train"), list(range(7)), epoch=0, training=True)
    assert loaded.numbers == [0, 2, 4, 6] and loaded.batch.clip_ids == ["clip0", "clip2", "clip4", "clip6"]
    assert [bad.id for bad in loaded.bad] == [name.removesuffix(".mp4") for name in FILES]
    for bad, reason in zip(loaded.bad, FILES.values()):
        assert "could not be cut: " in str(bad.error) and reason in str(bad.error)


def test_a_crop_of_another_size_or_rule_is_not_used(made):
    with pytest.raises(InputError, match=r"of .* are 16 pixels wide, not 24; cut .*prepare.py crops .* --size 24\)"):
        ClipReader([made], DataSettings(p_samp=0.5, crop_size=24), FakeTokenizer())
    ClipReader([made], DataSettings(p_samp=0, crop_size=24), FakeTokenizer())
    with pytest.raises(InputError, match="--crops store: stored crops are not cut by --boxes sampled"):
        DataSettings(crops="store", boxes="sampled")
    published, stored = batch_of(reader(made, boxes="sampled"), [0]), batch_of(reader(made), [0])
    assert not torch.equal(published.crops, stored.crops)  # straight from the video, no JPEG between


def test_a_store_without_crops(tmp_path):
    store = write_store(tmp_path, [{"source": video_of(tmp_path / "a.mp4", 10)}])
    with pytest.raises(InputError, match="crops: holds no crops; cut it with launch/prepare.py crops"):
        ClipReader([store], DataSettings(crops="store"), FakeTokenizer())
    batch_of(ClipReader([store], RGB, FakeTokenizer()), [0])  # from the video


def copy_of(made: KeypointStore, folder: Path) -> KeypointStore:
    return merge_stores([made], folder / "copy")


def test_damage_is_noticed(made, tmp_path):
    store = copy_of(made, tmp_path)
    shard = store.path / "crops" / "jpeg.zarr" / "c" / "0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match="clip clip0: frame 0: does not match its checksum"):
        CropStore(store).verify(store)
    r = reader(store)
    loaded = r.batch(r.clips("train"), [0, 2, 4, 6], 0, True)
    assert set(loaded.numbers) >= {2, 4, 6} and len(loaded.numbers) + len(loaded.bad) == 4
    os.truncate(shard, 1000)
    with pytest.raises(InputError, match="c/0: is damaged: its shard index"):
        CropStore(store).verify(store)
    (store.path / "crops" / "crops.json").write_text("{")
    with pytest.raises(InputError, match="crops.json: is not valid JSON"):
        CropStore(store)


def test_crops_of_other_keypoints_are_refused(made, tmp_path):
    store = copy_of(made, tmp_path)
    other = write_store(tmp_path / "other", [{"keypoints": pose(20, 5)} for _ in range(7)])
    os.rename(store.path / "crops", other.path / "crops")
    with pytest.raises(InputError, match="crops: holds the crops of other keypoints"):
        CropStore(other)


def test_appended_clips_are_cut_by_the_next_call(made, tmp_path):
    store = copy_of(made, tmp_path)
    with KeypointStoreWriter(store.path, SOURCE, append=True) as writer:
        source = textured(tmp_path / "new.webm", 11)
        size = {"fps": 25.0, "width": SIDE, "height": SIDE}
        writer.add(pose(11, 9), id="new", split="train", language="en", text="t", source=source, **size)
    store = KeypointStore.open(store.path)
    r = reader(store)
    with pytest.raises(InputError, match="clip new: is not cut yet; cut it with launch/prepare.py crops"):
        batch_of(r, [7])
    batch_of(r, [0])
    with pytest.raises(InputError, match="has crops of size 16, quality 90; ask for the same"):
        cut_crops(store, 16, 80)
    cut_crops(store, 16, 90, workers=1)
    assert batch_of(reader(store), [7]).clip_ids == ["new"]
    CropStore(store).verify(store)


def test_merged_stores_keep_their_crops(made, tmp_path):
    other = write_store(tmp_path / "other", [{"id": "other", "source": textured(tmp_path / "a.webm", 10)}])
    cut_crops(other, 16, 90, workers=1)
    merged = merge_stores([other, made], tmp_path / "merged")
    merged.verify()
    crops = CropStore(merged)
    crops.verify(merged)
    assert [clip.id for clip in merged.clips][:2] == ["other", "clip0"] and len(crops.left_out) == 3
    for mine, its in zip(batch_of(reader(merged), [3]).crops, batch_of(reader(made), [2]).crops):
        assert torch.equal(mine, its)
    with pytest.raises(InputError, match="clip clip0: was added before"):
        merge_stores([made, made], tmp_path / "twice")
    with KeypointStoreWriter(tmp_path / "b", SOURCE | {"version": "2"}) as writer:
        writer.add(pose(3), id="b", split="train", language="en", text="t", fps=25.0, width=8, height=8)
    with pytest.raises(InputError, match="store.json: keypoint_source: is .* keep stores of different origin apart"):
        merge_stores([made, KeypointStore.open(tmp_path / "b")], tmp_path / "mixed")


def prepare(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "launch" / "prepare.py"), *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_only_what_was_committed_counts(tmp_path):
    store = write_store(tmp_path / "store", [{"keypoints": pose(3, i)} for i in range(4)])
    files = [[bytes([i, row]) * 9 for row in range(6)] for i in range(4)]
    writer = CropStoreWriter(store, 16, 90)
    writer.add(files[0])
    writer.leave_out("because")
    writer.commit()
    writer.add(files[2])
    del writer
    writer = CropStoreWriter(store, 16, 90)
    assert writer.clips == 2 and writer.left_out == {"clip1": "because"}
    writer.add(files[2])
    writer.add(files[3])
    writer.commit()
    crops = CropStore(store)
    crops.verify(store)
    for number in (0, 2, 3):
        result = crops.jpegs(store.clips[number], np.arange(6) // 2, np.arange(6) % 2)
        assert [file.tobytes() for file in result] == files[number]


def test_a_killed_run_leaves_a_store_that_the_next_one_finishes(tmp_path):
    clips = [{"keypoints": pose(40, i), "source": textured(tmp_path / f"{i}.webm", 40)} for i in range(30)]
    store = write_store(tmp_path / "store", clips)
    first = prepare("crops", store.path, "--size", 16, "--workers", 1)
    # The disk usage is predicted before cutting begins; on a GPU, warnings may precede it.
    assert any("will take" in line for line in first.stderr)
    first.kill()
    first.communicate()
    assert CropStore(store).clips == 0  # a run commits once a minute
    cut_crops(store, 16, 90, workers=2)
    cut = CropStore(store)
    cut.verify(store)
    assert cut.clips == 30 and not cut.left_out


def test_the_command_names_what_it_leaves_out(tmp_path):
    store = write_store(tmp_path / "store", [{"source": video_of(tmp_path / "a.mp4", 10)}, {"source": "gone.mp4"}])
    run = prepare("crops", store.path, "--size", 16)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0 and "1 clips" in out and "left out: 1" in out
    assert "left out: clip clip1: " in err and "there is no such video" in err
    assert re.search(r"40 crops of about [\d.]+ kB will take about [\d.]+ kB; .* are free", err)
    (tmp_path / "videos").mkdir()
    other = write_store(tmp_path / "moved", [{"source": "/somewhere/else/a.mp4"}])
    os.rename(tmp_path / "a.mp4", tmp_path / "videos" / "a.mp4")
    run = prepare("crops", other.path, "--size", 16, "--videos", tmp_path / "videos")
    assert "1 clips" in run.communicate(timeout=60)[0]
    intact = "20 frames: intact; crops of 1 clips: intact"
    for path, status, said in ((store.path, 0, intact), (tmp_path, 2, "is not a")):
        run = prepare("verify", path)
        out, err = run.communicate(timeout=60)
        assert run.returncode == status and said in out + err


@pytest.mark.parametrize(("size", "quality"), [(4, 90), (1000, 90), (112, 0), (112, 100)])
def test_sizes_that_are_not_possible(made, size, quality):
    with pytest.raises(InputError, match="--size, --quality: "):
        cut_crops(made, size, quality)


FULL_DISK = """
import resource
from unisign_fast.pipelines.crops.cutting import cut_crops
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        cut_crops(KeypointStore.open({path!r}), 16, 90, workers=1)
    except InputError as error:
        print(error)
"""


def test_a_full_disk(tmp_path):
    """An actual error of the operating system: committed clips are kept, and the next call resumes."""
    clips = [{"keypoints": pose(40, i), "source": textured(tmp_path / f"{i}.webm", 40)} for i in range(3)]
    store = write_store(tmp_path / "store", clips)
    (tmp_path / "full.py").write_text(FULL_DISK.format(path=str(store.path)))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, str(tmp_path / "full.py")], capture_output=True, text=True, env=environment)
    assert "crops: cannot be written (File too large); free disk space or choose another folder" in run.stdout, (
        run.stderr
    )
    assert CropStore(store).clips == 0
    cut_crops(store, 16, 90, workers=1)
    CropStore(store).verify(store)
