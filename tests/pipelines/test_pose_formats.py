"""The formats of other projects: every joint at its place, one signer, bad files named."""

import json
import os

import numpy as np
import pose_files
import pytest
from pose_files import COCO, FPS, FRAMES, HEIGHT, WIDTH, in_pixels, make_keypoints, named
from refusals import refusal

from unisign_fast.pipelines.converters import dot_pose, mmpose, openpose, rtmlib
from unisign_fast.pipelines.converters.pose import make_pose, signer_of
from unisign_fast.pipelines.crops.video import VideoInfo
from unisign_fast.pipelines.skeleton import PACKED_JOINTS

VIDEO = VideoInfo(WIDTH, HEIGHT, FPS, FRAMES)
NOBODY = np.zeros((0, 133, 3))


def one_person(keypoints):
    return [frame[None] for frame in in_pixels(keypoints)]


# --- the signer


def test_the_signer_is_the_largest_person_wherever_it_stands_in_the_list():
    signer = make_keypoints(1, centre=(0.4, 0.5), size=0.5)
    other = make_keypoints(2, centre=(0.9, 0.5), size=0.1)
    faint = make_keypoints(3, centre=(0.4, 0.5), size=0.9) * [1, 1, 0.25]  # a ghost: large, and nowhere certain
    frames = [[signer[t], other[t], faint[t]] for t in range(FRAMES)]
    frames = [np.stack(persons[t % 3 :] + persons[: t % 3]) for t, persons in enumerate(frames)]
    frames[2], frames[5] = other[None, 2], NOBODY
    expected = signer.copy()
    expected[[2, 5]] = 0
    np.testing.assert_allclose(signer_of(frames), expected, rtol=1e-6)


def test_a_signer_is_found_again_after_frames_with_hardly_a_joint():
    signer, other = make_keypoints(1), make_keypoints(2, centre=(0.95, 0.5), size=0.05)
    signer[3, 1:, 2] = 0  # the nose alone
    persons = [np.stack([other[t], signer[t]]) for t in range(FRAMES)]
    np.testing.assert_allclose(signer_of(persons), signer, rtol=1e-6)


def test_a_person_who_is_alone_is_followed_however_far():
    keypoints = make_keypoints()
    keypoints[4:, :, 0] += 10
    np.testing.assert_allclose(signer_of([frame[None] for frame in keypoints]), keypoints, rtol=1e-6)


def test_keypoints_that_no_picture_can_have():
    assert "f: keypoints: have no frame" in refusal(make_pose, make_keypoints(frames=0), "f", None)
    assert "f: keypoints: are pixels, and nothing says" in refusal(make_pose, 100 * make_keypoints(), "f", None)
    assert "are neither pixels nor fractions" in refusal(make_pose, make_keypoints(size=1e-4), "f", None)


# --- joint by joint


@pytest.mark.parametrize("first", [0, 1])
def test_mmpose(tmp_path, first):
    keypoints = make_keypoints()
    persons = one_person(keypoints)
    persons[3] = []
    keypoints[3] = 0
    pose_files.write_mmpose(tmp_path / "clip.json", persons, first)
    pose = mmpose.read_pose(tmp_path / "clip.json", VIDEO)
    np.testing.assert_allclose(pose.keypoints, keypoints, rtol=1e-5)
    assert (pose.start, pose.file_frames) == (0, FRAMES)


@pytest.mark.parametrize("form", pose_files.RTMLIB)
@pytest.mark.parametrize("joints", [133, 134])
def test_rtmlib_however_saved_and_ordered(tmp_path, form, joints):
    keypoints = make_keypoints()
    persons = one_person(keypoints)
    if joints == 134:
        persons = [named(frame[0], pose_files.OPENPOSE_134)[None] for frame in persons]
    path = tmp_path / f"clip.{form.split()[0]}"
    pose_files.write_rtmlib(path, persons, form)
    np.testing.assert_allclose(rtmlib.read_pose(path, VIDEO).keypoints, keypoints, rtol=1e-5)


@pytest.mark.parametrize("suffix", [".PKL", ".JSON", ".Npz"])
def test_suffixes_in_capital_letters(tmp_path, suffix):
    pose_files.write_rtmlib(
        tmp_path / f"a{suffix.lower()}", one_person(keypoints := make_keypoints()), suffix[1:].lower()
    )
    path = (tmp_path / f"a{suffix.lower()}").rename(tmp_path / f"clip{suffix}")
    np.testing.assert_allclose(rtmlib.read_pose(path, VIDEO).keypoints, keypoints, rtol=1e-5)


def test_complex_keypoints_are_refused(tmp_path):
    np.save(tmp_path / "clip.npy", in_pixels(make_keypoints()).astype(np.complex64))
    assert "is not an array of numbers" in refusal(rtmlib.read_pose, tmp_path / "clip.npy", VIDEO)


def test_rtmlib_with_one_person_and_no_axis_for_it(tmp_path):
    keypoints = make_keypoints()
    np.save(tmp_path / "clip.npy", in_pixels(keypoints))
    np.testing.assert_allclose(rtmlib.read_pose(tmp_path / "clip.npy", VIDEO).keypoints, keypoints, rtol=1e-5)


@pytest.mark.parametrize("body", [pose_files.OPENPOSE_25, pose_files.OPENPOSE_18])
@pytest.mark.parametrize("scale", [in_pixels, np.asarray])
def test_openpose(tmp_path, body, scale):
    keypoints = make_keypoints()
    pose_files.write_openpose(tmp_path / "clip", [[frame] for frame in scale(keypoints)], body)
    if len(body) == 18:
        keypoints[:, [COCO.index(name) for name in pose_files.COCO_FEET]] = 0
    np.testing.assert_allclose(openpose.read_pose(tmp_path / "clip", VIDEO).keypoints, keypoints, rtol=1e-5, atol=1e-6)


def test_dot_pose(tmp_path):
    data, confidence, points = pose_files.make_holistic()
    confidence[2, 0, :] = 0  # no person found, in the format's notation
    pose_files.write_dot_pose(tmp_path / "clip.pose", data, confidence)
    pose = dot_pose.read_pose(tmp_path / "clip.pose")
    assert (pose.width, pose.height, pose.fps, pose.file_frames) == (WIDTH, HEIGHT, FPS, FRAMES)
    for coco, part, point in [
        ("nose", "POSE_LANDMARKS", "NOSE"), ("l_ear", "POSE_LANDMARKS", "LEFT_EAR"),
        ("r_shoulder", "POSE_LANDMARKS", "RIGHT_SHOULDER"), ("l_elbow", "POSE_LANDMARKS", "LEFT_ELBOW"),
        ("r_wrist", "POSE_LANDMARKS", "RIGHT_WRIST"), ("l_ankle", "POSE_LANDMARKS", "LEFT_ANKLE"),
        ("r_big_toe", "POSE_LANDMARKS", "RIGHT_FOOT_INDEX"), ("l_heel", "POSE_LANDMARKS", "LEFT_HEEL"),
        ("face_0", "FACE_LANDMARKS", "127"), ("face_8", "FACE_LANDMARKS", "152"), ("face_16", "FACE_LANDMARKS", "356"),
        ("face_30", "FACE_LANDMARKS", "4"), ("face_60", "FACE_LANDMARKS", "78"), ("face_67", "FACE_LANDMARKS", "178"),
        *((f"lh_{i}", "LEFT_HAND_LANDMARKS", name) for i, name in enumerate(pose_files.HAND)),
        *((f"rh_{i}", "RIGHT_HAND_LANDMARKS", name) for i, name in enumerate(pose_files.HAND)),
    ]:  # fmt: skip
        joint, place = COCO.index(coco), points.index((part, point))
        expected = np.concatenate([data[:, 0, place, :2] / [WIDTH, HEIGHT], confidence[:, 0, place, None]], -1)
        expected[2] = 0
        np.testing.assert_allclose(pose.keypoints[:, joint], expected, rtol=1e-5, err_msg=coco)
    missing = [COCO[joint] for joint in range(133) if not pose.keypoints[:, joint].any()]
    assert missing == ["l_small_toe", "r_small_toe"]


def test_the_face_of_holistic_is_the_mirror_image_of_itself():
    """Vertices left and right are pairs of the canonical face: wrongly ordered points would not be."""
    mirror = {127: 356, 234: 454, 93: 323, 132: 361, 58: 288, 172: 397, 136: 365, 149: 378, 78: 308, 81: 311, 178: 402}
    vertex = {joint: int(point) for joint, (part, point) in dot_pose.PLACES.items() if part == "FACE_LANDMARKS"}
    pairs = [(23 + i, 39 - i) for i in range(8)] + [(83, 87), (84, 86), (90, 88)]
    assert [mirror[vertex[right]] for right, _ in pairs] == [vertex[left] for _, left in pairs]
    assert len(set(vertex.values())) == 68 and set(PACKED_JOINTS.tolist()) <= set(dot_pose.PLACES)


# --- files that cannot be used


def spoil_json(change, file="clip.json"):
    """Rewrites a JSON file with the result of `change`, or (None) as modified in place."""

    def spoil(root):
        path = root / file
        content = json.loads(path.read_text())
        changed = change(content)
        path.write_text(json.dumps(content if changed is None else changed))

    return spoil


def truncate(file):
    return lambda root: os.truncate(root / file, (root / file).stat().st_size // 2)


FRAME_3 = "clip/clip_000000000003_keypoints.json"
BAD_MMPOSE = {
    "clip.json: is not valid JSON": truncate("clip.json"),
    "holds no frames with frame_id and instances": spoil_json(lambda x: x["instance_info"][0]["instances"]),
    "clip.json: holds no frames": spoil_json(lambda x: []),
    "frame_id: frame 4 stands where frame 2 (counted from 1) should": spoil_json(
        lambda x: x["instance_info"].remove(x["instance_info"][2])
    ),
    "frame 1: keypoints (1, 17, 2) are not (persons, 133, 2)": spoil_json(
        lambda x: x["instance_info"][0]["instances"][0].update(keypoints=[[1, 2]] * 17)
    ),
    "frame 2: scores (1,) do not fit keypoints (1, 133, 2)": spoil_json(
        lambda x: x["instance_info"][1]["instances"][0].update(keypoint_scores=None)
    ),
    "keypoints: frame 1 has NaN": spoil_json(
        lambda x: x["instance_info"][1]["instances"][0]["keypoints"].__setitem__(0, [float("nan"), 1])
    ),
}
BAD_OPENPOSE = {
    "clip: frame 3 of 8 is missing": lambda root: (root / FRAME_3).unlink(),
    "holds no *_keypoints.json": lambda root: [file.unlink() for file in (root / "clip").iterdir()],
    "0003_keypoints.json: is not valid JSON": truncate(FRAME_3),
    "0003_keypoints.json: holds no people": spoil_json(lambda x: {"version": 1.3}, FRAME_3),
    "pose_keypoints_2d: has 15 joints, neither BODY_25": spoil_json(
        lambda x: x["people"][0].update(pose_keypoints_2d=[1] * 45), FRAME_3
    ),
    "pose_keypoints_2d: has 135 joints": spoil_json(
        lambda x: x["people"][0].update(pose_keypoints_2d=[1] * 405), FRAME_3
    ),
    "pose_keypoints_2d: is not a list of x, y, confidence": spoil_json(
        lambda x: x["people"][0].update(pose_keypoints_2d=[1] * 44), FRAME_3
    ),
    "hand_left_keypoints_2d: has 0 joints, not 21; run OpenPose with --face and --hand": spoil_json(
        lambda x: x["people"][0].update(hand_left_keypoints_2d=[]), FRAME_3
    ),
    "keypoints: frame 3 has NaN": spoil_json(
        lambda x: x["people"][0]["face_keypoints_2d"].__setitem__(0, float("inf")), FRAME_3
    ),
}


@pytest.mark.parametrize("expected", BAD_MMPOSE)
def test_bad_mmpose_files(tmp_path, expected):
    pose_files.write_mmpose(tmp_path / "clip.json", one_person(make_keypoints()))
    BAD_MMPOSE[expected](tmp_path)
    message = refusal(mmpose.read_pose, tmp_path / "clip.json", VIDEO)
    assert message.startswith(str(tmp_path / "clip.json")) and expected in message


@pytest.mark.parametrize("expected", BAD_OPENPOSE)
def test_bad_openpose_folders(tmp_path, expected):
    pose_files.write_openpose(tmp_path / "clip", one_person(make_keypoints()))
    BAD_OPENPOSE[expected](tmp_path)
    message = refusal(openpose.read_pose, tmp_path / "clip", VIDEO)
    assert message.startswith(str(tmp_path / "clip")) and expected in message


def test_openpose_from_minus_one_to_one(tmp_path):
    pose_files.write_openpose(tmp_path / "clip", [[frame] for frame in 2 * make_keypoints(size=0.9) - [1, 1, 0]])
    assert "has coordinates from -1 to 1" in refusal(openpose.read_pose, tmp_path / "clip", VIDEO)


@pytest.mark.parametrize(
    "write, expected",
    [
        (lambda path: path.write_bytes(b"\x93NUMPY garbage"), "is not a complete numpy file"),
        (lambda path: np.savez(path.with_suffix(""), points=np.zeros(3)), "holds no dict with keypoints and scores"),
        (lambda path: np.savez(path.with_suffix(""), keypoints=np.zeros((4, 1, 26, 2)), scores=np.zeros((4, 1, 26))),
         "frame 0: keypoints (1, 26, 2) are not (persons, 133, 2); extract the pose again with a whole-body model"),
        (lambda path: np.savez(path.with_suffix(""), keypoints=np.zeros((4, 1, 133, 2)), scores=np.zeros((3, 1, 133))),
         "scores: does not have one entry per frame"),
        (lambda path: np.savez(path.with_suffix(""), keypoints=np.zeros((4, 1, 133, 3)), scores=np.zeros((4, 1, 133))),
         "keypoints (1, 133, 3) are not"),
        (lambda path: np.savez(path.with_suffix(""), keypoints=pose_files.objects([os.system]), scores=np.zeros(1)),
         "names posix.system, which poses and labels do not need"),
    ],
)  # fmt: skip
def test_bad_rtmlib_files(tmp_path, write, expected):
    write(tmp_path / "clip.npz")
    message = refusal(rtmlib.read_pose, tmp_path / "clip.npz", VIDEO)
    assert message.startswith(str(tmp_path / "clip.npz")) and expected in message


@pytest.mark.parametrize(
    "left_out, expected",
    [
        (["LEFT_HAND_LANDMARKS"], "lacks 21 joints, the first LEFT_HAND_LANDMARKS WRIST (it has POSE_LANDMARKS, FACE_"),
        (["FACE_LANDMARKS", "POSE_LANDMARKS"], "lacks 27 joints, the first POSE_LANDMARKS NOSE"),
    ],
)
def test_dot_pose_without_parts_that_are_needed(tmp_path, left_out, expected):
    data, confidence, points = pose_files.make_holistic()
    kept = [i for i, (part, _) in enumerate(points) if part not in left_out]
    parts = {part: names for part, names in pose_files.HOLISTIC.items() if part not in left_out}
    pose_files.write_dot_pose(tmp_path / "clip.pose", data[:, :, kept], confidence[:, :, kept], parts)
    assert expected in refusal(dot_pose.read_pose, tmp_path / "clip.pose")


def test_dot_pose_of_another_layout_damaged_or_normalised(tmp_path):
    data, confidence, _ = pose_files.make_holistic()
    path = tmp_path / "clip.pose"
    openpose_137 = {"pose_keypoints_2d": ["Nose", "Neck"], "face_keypoints_2d": ["FB_0"]}
    pose_files.write_dot_pose(path, data[:, :, :3], confidence[:, :, :3], openpose_137)
    assert "lacks 69 joints" in refusal(dot_pose.read_pose, path)
    pose_files.write_dot_pose(path, data / 1000, confidence)
    assert "are neither pixels nor fractions" in refusal(dot_pose.read_pose, path)
    pose_files.write_dot_pose(path, data, confidence, size=(0, 0))
    assert "gives no width and height" in refusal(dot_pose.read_pose, path)
    data[4, 0, 0, 0] = np.nan
    pose_files.write_dot_pose(path, data, confidence)
    assert "keypoints: frame 4 has NaN" in refusal(dot_pose.read_pose, path)
    for size in (path.stat().st_size // 2, 10, 0):
        os.truncate(path, size)
        assert "clip.pose: is not a complete .pose file" in refusal(dot_pose.read_pose, path)
