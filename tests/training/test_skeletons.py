"""Other joint sets: from real file formats through store, loader and model, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pose_files
import pytest
import torch
from clip_stores import FakeTokenizer, pose, write_store
from pose_files import FRAMES, HEIGHT, WIDTH, in_pixels, make_keypoints
from video_files import write_video

from unisign_fast.checkpoints.model_folder import save_model
from unisign_fast.evaluation.evaluate import evaluate_split
from unisign_fast.inference.processor import Processor
from unisign_fast.inference.translator import Translator
from unisign_fast.model.config import ModelConfig, MT5Shape
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.batch_sampler import Budget
from unisign_fast.pipelines.batches.loader import BatchLoader
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.clips.keypoint_normalization import normalize_parts
from unisign_fast.pipelines.converters.convert import convert
from unisign_fast.pipelines.crops.cutting import _Cutter
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.skeleton import HANDS, PARTS, WHOLEBODY, Part, Skeleton
from unisign_fast.pipelines.skeletons import SKELETONS
from unisign_fast.pipelines.store.keypoint_store import KeypointStore, KeypointStoreWriter
from unisign_fast.pipelines.store.merge import merge_stores
from unisign_fast.published.convert import to_published
from unisign_fast.text.tokenizer import train_tokenizer
from unisign_fast.utils.distributed import start_ranks

CLIPS = 4
OTHERS = {"holistic75": "mediapipe-holistic-75", "openpose137": "openpose-137"}
TEXTS = ["tea", "water", "bread", "milk"]


def write_poses(folder: Path, format: str) -> None:
    for i in range(CLIPS):
        if format == "holistic75":
            data, confidence, _ = pose_files.make_holistic(i)
            pose_files.write_dot_pose(folder / f"c{i}.pose", data, confidence)
        else:
            pose_files.write_openpose(folder / f"c{i}", [frame[None] for frame in in_pixels(make_keypoints(i))])


@pytest.fixture(scope="module", params=OTHERS)
def store(request, tmp_path_factory) -> KeypointStore:
    """A store converted from files of another estimator, with videos."""
    root = tmp_path_factory.mktemp(request.param)
    for name in ("poses", "videos"):
        (root / name).mkdir()
    write_poses(root / "poses", request.param)
    pictures = [np.full((HEIGHT, WIDTH, 3), 9 * t, np.uint8) for t in range(FRAMES)]
    for i in range(CLIPS):
        write_video(root / "videos" / f"c{i}.mp4", pictures)
    rows = [{"video": f"c{i}.mp4", "text": text} for i, text in enumerate(TEXTS)]
    (root / "labels.json").write_text(json.dumps(rows))
    convert(request.param, root / "poses", root / "videos", root / "labels.json", root / "store", split="train")
    opened = KeypointStore.open(root / "store")
    opened.verify()
    assert opened.skeleton is SKELETONS[OTHERS[request.param]]
    return opened


def config_of(skeleton: str, vocabulary: int, rgb: bool = True) -> ModelConfig:
    size = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
    return ModelConfig(
        mt5=MT5Shape(vocab_size=-(-vocabulary // 8) * 8, dropout_rate=0.0, **size),
        rgb=rgb,
        skeleton=skeleton,
        pose_channels=(8, 8, 16, 32),
        projection_std=0.5,
        backbone_width=0.25,
        backbone_depth=0.3,
    )


def test_joints_come_from_the_file_in_the_skeletons_order(store):
    clip = store.clips[1]
    keypoints = store.keypoints(clip)
    if store.skeleton.name == "openpose-137":
        whole = make_keypoints(1)
        ours = {"nose": 0, "left_wrist": 9, "right_ear": 4, "left_hand_index_4": 91 + 8, "right_hand_wrist": 112}
        ours |= {"face_30": 23 + 30}
        expected = {name: whole[:, joint] for name, joint in ours.items()}
    else:
        data, confidence, points = pose_files.make_holistic(1)
        data = np.concatenate([data[:, 0, :, :2] / (WIDTH, HEIGHT), confidence[:, 0, :, None]], -1)
        places = {
            "nose": ("POSE_LANDMARKS", "NOSE"),
            "right_foot_index": ("POSE_LANDMARKS", "RIGHT_FOOT_INDEX"),
            "mouth_left": ("POSE_LANDMARKS", "MOUTH_LEFT"),
            "left_hand_wrist": ("LEFT_HAND_LANDMARKS", "WRIST"),
            "right_hand_little_4": ("RIGHT_HAND_LANDMARKS", "PINKY_TIP"),
        }
        expected = {name: data[:, points.index(place)] for name, place in places.items()}
    for name, values in expected.items():
        joint = store.skeleton.joints.index(name)
        np.testing.assert_allclose(keypoints[:, joint], values[: clip.frames], atol=1e-3, err_msg=name)


def test_a_model_of_it_trains_through_the_loader(store, tmp_path):
    tokenizer = train_tokenizer(TEXTS * 20, tmp_path / "tokenizer")
    data = DataSettings(p_samp=0.5, crop_size=32, augment=("rotation=5", "noise=0.01", "joint_dropout=0.05"))
    reader = ClipReader([store], data, tokenizer)
    loader = BatchLoader(reader, reader.clips("train"), clips_per_step=4, budget=Budget(1000, 1000), on_bad_clip=print)
    torch.manual_seed(0)
    model = UniSign(config_of(store.skeleton.name, len(tokenizer))).train()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in loader.steps(epochs=6):
        (batch,) = step.batches
        assert batch.poses.shape[1:] == (len(store.skeleton.packed_joints), 3) and len(batch.crops)
        total, count = model(batch)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((total / count).item())
    assert np.isfinite(losses).all() and losses[-1] < 0.9 * losses[0]
    for name in ("pose_encoders.body", "temporal_encoders.face", "rgb.fusion", "pose_encoders.hand"):
        moved = [(weight != before[key]).any() for key, weight in model.named_parameters() if key.startswith(name)]
        assert any(moved), name

    save_model(tmp_path / "model", model.config, model.state_dict(), tokenizer, data)
    loaded, _ = UniSign.load(tmp_path / "model")
    assert loaded.config.skeleton == store.skeleton.name
    processor = Processor.from_pretrained(tmp_path / "model", language="en", p_samp=0.0)
    (tokens,) = loaded.eval().generate(processor(store.keypoints(store.clips[0])), beams=1, max_new_tokens=4)
    assert isinstance(processor.decode(tokens), str)
    with pytest.raises(InputError, match=r"keypoints \(10, 133, 3\) are not \[T, "):
        processor(pose(10))


def test_hands_are_cut_out_of_its_videos(store):
    files = _Cutter(store.path, 32, 90, None, number=0).cut(0)
    assert len(files) == 2 * store.clips[0].frames


def test_a_store_of_another_skeleton_is_one_line(store, tmp_path):
    default = write_store(tmp_path / "default", [{"split": "test"}])
    with pytest.raises(
        InputError, match=f"has the skeleton {WHOLEBODY.name}, .* has {store.skeleton.name}; name stores of"
    ):
        ClipReader([store, default], DataSettings(p_samp=0), FakeTokenizer())
    with pytest.raises(InputError, match=f"store.json: skeleton: is {store.skeleton.name}, that of"):
        merge_stores([default, store], tmp_path / "merged")
    source = store.keypoint_source
    with pytest.raises(InputError, match=f"skeleton: is {store.skeleton.name}, and {WHOLEBODY.name} would be added"):
        KeypointStoreWriter(store.path, source, append=True)
    tokenizer = train_tokenizer(TEXTS * 20, tmp_path / "tokenizer")
    model = UniSign(config_of(store.skeleton.name, len(tokenizer), rgb=False))
    reader = ClipReader([default], DataSettings(p_samp=0), tokenizer)
    message = f"default: has keypoints of {WHOLEBODY.name}, and the model reads those of {store.skeleton.name}; "
    with pytest.raises(InputError, match=message):
        evaluate_split(model, tokenizer, reader, "test", start_ranks())
    with pytest.raises(InputError, match="model: skeleton: .* has no published form"):
        to_published(model)
    save_model(tmp_path / "model", model.config, model.state_dict(), tokenizer)
    with pytest.raises(InputError, match="has keypoints of coco-wholebody-133, and the model reads"):
        Translator(tmp_path / "model", language="en", device="cpu")(default.path)


def test_merging_and_reopening_keep_the_skeleton(store, tmp_path):
    merged = merge_stores([store], tmp_path / "merged")
    assert merged.skeleton is store.skeleton and KeypointStore.open(tmp_path / "merged").skeleton is store.skeleton
    header = tmp_path / "merged/store.json"
    assert json.loads(header.read_text())["skeleton"] == store.skeleton.name


def test_stores_and_models_that_name_none_are_of_the_default(tmp_path):
    store = write_store(tmp_path / "store", [{}])
    assert "skeleton" not in json.loads((tmp_path / "store/store.json").read_text()) and store.skeleton is WHOLEBODY
    ModelConfig().save(tmp_path / "config.json")
    values = json.loads((tmp_path / "config.json").read_text())
    del values["skeleton"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert ModelConfig.load(tmp_path / "config.json") == ModelConfig() and ModelConfig().joints is WHOLEBODY
    (tmp_path / "config.json").write_text(json.dumps(values | {"skeleton": "lizard"}))
    with pytest.raises(InputError, match="the skeleton 'lizard' is not known"):
        ModelConfig.load(tmp_path / "config.json")


@pytest.mark.parametrize("name", SKELETONS)
def test_parts_are_anatomically_where_they_should_be(name):
    skeleton = SKELETONS[name]
    assert len(skeleton.joints) == int(name.rsplit("-", 1)[1]) == len(set(skeleton.joints))
    body = [skeleton.joints[joint] for joint in skeleton.parts["body"].joints]
    for hand in HANDS:
        part = skeleton.parts[hand]
        names = [skeleton.joints[joint] for joint in part.joints]
        assert all(joint.startswith(hand) for joint in names) and names[part.root].endswith("wrist")
        assert body[part.anchor] == f"{hand}_wrist"
        assert [names[tip].rsplit("_", 1)[1] for tip in skeleton.fingertips] == ["4"] * 5
    assert body[skeleton.parts["face"].anchor] == "nose"
    for a, b in skeleton.parts["body"].edges:  # no limb crosses from left to right
        assert {body[a].split("_")[0], body[b].split("_")[0]} != {"left", "right"}
    columns = np.arange(len(skeleton.joints))[skeleton.hand_columns]
    np.testing.assert_array_equal(columns, np.concatenate([skeleton.part_joints[hand] for hand in HANDS]))
    for part in PARTS:
        np.testing.assert_allclose(skeleton.adjacency(part).sum(axis=(0, 1)), 1, rtol=1e-6)


def test_hands_may_be_anywhere_and_of_any_size():
    """Reordered joints give the same normalised pose, by the slow way as well as the contiguous one."""
    order = np.random.default_rng(0).permutation(133)
    place = np.argsort(order)
    parts = {
        name: Part(tuple(place[list(part.joints)].tolist()), part.edges, part.root, part.anchor)
        for name, part in WHOLEBODY.parts.items()
    }
    shuffled = Skeleton("shuffled", tuple(WHOLEBODY.joints[joint] for joint in order), parts)
    assert not isinstance(shuffled.hand_columns, slice)
    for dtype in (np.float16, np.float32):
        keypoints = pose(12).astype(dtype)
        np.testing.assert_array_equal(normalize_parts(keypoints[:, order], shuffled), normalize_parts(keypoints))


@pytest.mark.parametrize(
    ("part", "change", "problem"),
    [
        ("left", {"joints": tuple(range(91, 111))}, "an edge to another part"),
        ("face", {"joints": tuple(range(33)), "edges": ()}, "33 joints, not 1 to 32"),
        ("face", {"joints": (23, 23), "edges": (), "root": 0}, "a joint twice"),
        ("face", {"joints": (23, 133), "edges": (), "root": 0}, "an unknown joint"),
        ("face", {"root": 18}, "needs a root"),
        ("right", {"anchor": 9}, "needs an anchor"),
        ("right", {"edges": ()}, "hands differ"),
    ],
)
def test_a_definition_that_cannot_be(part, change, problem):
    changed = Part(**{name: getattr(WHOLEBODY.parts[part], name) for name in Part.__annotations__} | change)
    with pytest.raises(AssertionError, match=problem):
        Skeleton("wrong", WHOLEBODY.joints, {**WHOLEBODY.parts, part: changed})
