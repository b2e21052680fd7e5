"""Stand-ins for the two networks of pose estimation, ONNX files with their inputs and outputs, and pictures whose
answer is known."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

JOINTS = 133
RED, GREEN, BLUE = range(3)


def dot(picture, channel, x, y):
    """A cone of light, brightest at (x, y)."""
    rows, columns = np.indices(picture.shape[:2])
    light = 255 - 12 * np.hypot(columns - x, rows - y)
    picture[..., channel] = np.maximum(picture[..., channel], light.clip(0)).astype(np.uint8)


def person(picture, left, top, width, height, channel=BLUE, light=200):
    """A bright upright box; returns where its hand is, a dot within."""
    picture[top : top + height, left : left + width, channel] = light
    hand = left + width // 3, top + height // 4
    dot(picture, channel, *hand)
    return hand


def black(width=160, height=120):
    return np.zeros((height, width, 3), np.uint8)


def walk(frames=9, size=(160, 120)):
    """Pictures of one person who moves to the right, with where the hand is in each; a green dot beside it."""
    pictures, hands = [], []
    for t in range(frames):
        picture = black(*size)
        hands.append(person(picture, 30 + 3 * t, 20, 40, 80))
        dot(picture, GREEN, hands[-1][0] + 5, hands[-1][1] + 30)
        pictures.append(picture)
    return pictures, np.array(hands)


def noisy_walk(frames=30):
    """So that every frame has bytes to lose."""
    rng = np.random.default_rng(0)
    pictures, hands = walk(frames)
    for picture in pictures:
        picture[..., GREEN] = np.maximum(picture[..., GREEN], rng.integers(0, 60, picture.shape[:2], np.uint8))
    return pictures, hands


def keypoints_of(pose, size):
    """[T, 133, 2] pixels and [T, 133] confidences of a pose file's content."""
    return np.concatenate(pose["keypoints"]) * size, np.concatenate(pose["scores"])


def write_pose_network(path: Path, batch: str | int = "batch", joints: int = JOINTS) -> Path:
    """Joint k is where channel k % 3 (red, green, blue) is brightest in the crop; its confidence is how bright it is.

    As RTMPose-x: [batch, 3, 384, 288] -> simcc_x [batch, joints, 576], simcc_y [batch, joints, 768].
    """
    nodes, outputs = [], []
    for name, axis, length in (("simcc_x", 2, 576), ("simcc_y", 3, 768)):
        nodes += [
            helper.make_node("ReduceMax", ["input", f"axis {axis}"], [f"{name} line"], keepdims=0),
            helper.make_node("Unsqueeze", [f"{name} line", "last"], [f"{name} column"]),
            helper.make_node("Concat", [f"{name} column"] * 2, [f"{name} pairs"], axis=-1),
            helper.make_node("Reshape", [f"{name} pairs", f"{name} shape"], [f"{name} channels"]),
            helper.make_node("Gather", [f"{name} channels", "channel"], [f"{name} joints"], axis=1),
            helper.make_node("Mul", [f"{name} joints", "gain"], [name]),
        ]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, joints, length]))
    constants = {
        "axis 2": np.array([2]),
        "axis 3": np.array([3]),
        "last": np.array([-1]),
        "simcc_x shape": np.array([0, 3, 576]),
        "simcc_y shape": np.array([0, 3, 768]),
        "channel": np.arange(joints) % 3,
        "gain": np.array(0.4, np.float32),
    }
    return _write(path, nodes, helper.make_tensor_value_info("input", 1, [batch, 3, 384, 288]), outputs, constants)


def write_detector(path: Path, size: int = 416, batch: str | int = 1) -> Path:
    """Two persons at most: the box round everything blue, and the box round everything red, above 128.

    As YOLOX with suppression inside: [batch, 3, size, size] BGR -> [batch, 2, 5] boxes and confidences, [batch, 2]
    classes. The brighter a person's brightest spot, the more confident.
    """
    nodes = []
    for channel in (0, 2):
        c = f"c{channel}"
        nodes += [
            helper.make_node("Gather", ["input", f"{c} number"], [c], axis=1),
            helper.make_node("ReduceMax", [c, "all"], [f"{c} top"], keepdims=0),
            helper.make_node("Sub", [f"{c} top", "dark"], [f"{c} above"]),
            helper.make_node("Div", [f"{c} above", "range"], [f"{c} score"]),
        ]
        for name, axes in (("x", "axis 1"), ("y", "axis 2")):
            nodes += [
                helper.make_node("ReduceMax", [c, axes], [f"{c} {name} line"], keepdims=0),
                helper.make_node("Greater", [f"{c} {name} line", "dark"], [f"{c} {name} seen"]),
                helper.make_node("Cast", [f"{c} {name} seen"], [f"{c} {name} mask"], to=TensorProto.FLOAT),
                helper.make_node("ArgMax", [f"{c} {name} mask"], [f"{c} {name} first"], axis=1, keepdims=0),
                helper.make_node(
                    "ArgMax", [f"{c} {name} mask"], [f"{c} {name} last"], axis=1, keepdims=0, select_last_index=1
                ),
            ]
        parts = [f"{c} x first", f"{c} y first", f"{c} x last", f"{c} y last"]
        for part in parts:
            nodes.append(helper.make_node("Cast", [part], [f"{part} float"], to=TensorProto.FLOAT))
        values = [f"{part} float" for part in parts] + [f"{c} score"]
        for value in values:
            nodes.append(helper.make_node("Unsqueeze", [value, "axis 1 and 2"], [f"{value} cell"]))
        nodes.append(helper.make_node("Concat", [f"{value} cell" for value in values], [f"{c} row"], axis=2))
    nodes += [
        helper.make_node("Concat", ["c0 row", "c2 row"], ["dets"], axis=1),
        helper.make_node("Gather", ["dets", "c0 number"], ["any column"], axis=2),
        helper.make_node("Mul", ["any column", "zero"], ["person"]),
        helper.make_node("Cast", ["person"], ["labels"], to=TensorProto.INT64),
    ]
    constants = {
        "c0 number": np.array(0),
        "c2 number": np.array(2),
        "all": np.array([1, 2]),
        "axis 1": np.array([1]),
        "axis 2": np.array([2]),
        "axis 1 and 2": np.array([1, 2]),
        "dark": np.array([128], np.float32),
        "range": np.array([127], np.float32),
        "zero": np.array(0, np.float32),
    }
    outputs = [
        helper.make_tensor_value_info("dets", TensorProto.FLOAT, [batch, 2, 5]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, [batch, 2]),
    ]
    return _write(path, nodes, helper.make_tensor_value_info("input", 1, [batch, 3, size, size]), outputs, constants)


def _write(path: Path, nodes: list, given, outputs: list, constants: dict[str, np.ndarray]) -> Path:
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, [given], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
