"""Where the processor time of a part goes: pose network, detector, decoding and the rest; and what Ray takes.

    python benchmarks/curation_share.py

Counts CPU seconds, so that other work on the machine does not change the shares. The pose network has the input,
outputs and about the multiplications of RTMPose-l at 384x288, with random weights; the programme is 1024x576.
"""

import resource
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:1] = [str(ROOT), str(ROOT / "tests" / "helpers")]

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper
from pose_networks import JOINTS, write_detector
from video_files import write_video

from unisign_fast.pipelines.curation.distribution import distribute, ray_started
from unisign_fast.pipelines.curation.parts import PartMaker
from unisign_fast.utils.console import run_command

LAYERS, CHANNELS = 18, 64  # 3x3 convolutions on 96x72: 4.6 GMAC a frame, as RTMPose-l
BOX = (0.6, 0.3, 1.0, 1.0)
FPS = 25


def write_heavy_network(path: Path) -> Path:
    """[N, 3, 384, 288] -> SimCC outputs, after LAYERS convolutions."""
    rng = np.random.default_rng(0)
    shapes = [(CHANNELS, 3, 4, 4)] + [(CHANNELS, CHANNELS, 3, 3)] * LAYERS
    weights = [
        numpy_helper.from_array((rng.normal(size=s) * 0.03).astype(np.float32), f"w{i}") for i, s in enumerate(shapes)
    ]
    nodes = [helper.make_node("Conv", ["input", "w0"], ["y0"], strides=[4, 4])]
    nodes += [helper.make_node("Conv", [f"y{i}", f"w{i + 1}"], [f"c{i}"], pads=[1] * 4) for i in range(LAYERS)]
    nodes += [helper.make_node("Relu", [f"c{i}"], [f"y{i + 1}"]) for i in range(LAYERS)]
    nodes.append(helper.make_node("GlobalAveragePool", [f"y{LAYERS}"], ["pooled"]))
    nodes.append(helper.make_node("Reshape", ["pooled", "flat"], ["features"]))
    outputs = []
    for name, length in (("simcc_x", 576), ("simcc_y", 768)):
        size = (CHANNELS, JOINTS * length)
        weights.append(numpy_helper.from_array(rng.normal(size=size).astype(np.float32), f"{name} w"))
        weights.append(numpy_helper.from_array(np.array([-1, JOINTS, length]), f"{name} shape"))
        nodes.append(helper.make_node("MatMul", ["features", f"{name} w"], [f"{name} flat"]))
        nodes.append(helper.make_node("Reshape", [f"{name} flat", f"{name} shape"], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", JOINTS, length]))
    weights.append(numpy_helper.from_array(np.array([-1, CHANNELS]), "flat"))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 384, 288])
    graph = helper.make_graph(nodes, "heavy", [given], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def write_material(root: Path, seconds: int) -> Path:
    """A programme of 1024x576 with a person in the signer's box."""
    pictures = []
    for number in range(seconds * FPS):
        picture = np.zeros((576, 1024, 3), np.uint8)
        picture[:, :, 1] = np.arange(1024) // 8
        picture[230:560, 700 + number % 9 : 900, 2] = 200
        pictures.append(picture)
    return write_video(root / "v.mp4", pictures, FPS)


def cpu_seconds() -> float:
    """CPU time of this process, user and system, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Counted:
    """CPU seconds spent in a callable."""

    def __init__(self, call):
        self.call, self.seconds, self.calls = call, 0.0, 0

    def __call__(self, *arguments):
        before = cpu_seconds()
        result = self.call(*arguments)
        self.seconds += cpu_seconds() - before
        self.calls += 1
        return result


def curation_share(seconds: int = 8, part_minutes: float = 5) -> None:
    """Count the CPU seconds of one part, and of Ray for each item.

    Args:
        seconds: Length of the programme.
        part_minutes: Length of the parts for Ray's share.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        video, frames = write_material(root, seconds), seconds * FPS
        files = write_detector(root / "detector.onnx"), write_heavy_network(root / "pose.onnx")
        maker = PartMaker(str(root / "out"), "r", *files, "cpu")
        maker.load()
        maker._is_loaded = True
        network, detector = Counted(maker._network._rtmpose.session.run), Counted(maker._detector)
        maker._detector = detector
        maker._network._rtmpose.session = _Session(maker._network._rtmpose.session, network)
        item = {"key": f"{'0' * 16}-{'1' * 16}", "video": str(video), "first": 0, "end": frames, "fps": FPS, "box": BOX}
        before = cpu_seconds()
        assert maker(item)["state"] == "done"
        whole = cpu_seconds() - before
        print(f"{frames} frames, {detector.calls} detections: {whole:.1f} CPU s, of which")
        print(f"  pose network {network.seconds:.1f} ({network.seconds / whole:.1%})")
        print(f"  detector {detector.seconds:.1f} ({detector.seconds / whole:.1%})")
        rest = whole - network.seconds - detector.seconds
        print(f"  decoding twice, crops, decoding of SimCC, writing {rest:.1f} ({rest / whole:.1%})")
        _count_ray(whole / frames * part_minutes * 60 * FPS)


class _Session:
    """An onnxruntime session whose runs are counted."""

    def __init__(self, session, run: Counted):
        self._session, self.run = session, run

    def __getattr__(self, name: str):
        return getattr(self._session, name)


class Nothing(PartMaker):
    """Items without work."""

    def load(self) -> None:
        """Nothing."""

    def make(self, item):
        return None

    def write(self, key, content, seconds) -> None:
        """Nothing."""


def _count_ray(part_seconds: float) -> None:
    """CPU seconds of driver and children for each item without work, as a share of a part's."""
    used = {}
    for items in (10, 210):
        with tempfile.TemporaryDirectory() as out, ray_started(2):
            rows = [{"key": f"{number:016x}-{'0' * 16}"} for number in range(items)]
            arguments = {"root": out, "run": "r", "detector": None, "pose_model": None, "device": "cpu"}
            list(distribute(Nothing, arguments, rows[:2], 2))
            before = cpu_seconds() + _children()
            assert len(list(distribute(Nothing, arguments, rows, 2))) == items
            used[items] = cpu_seconds() + _children() - before
    each = (used[210] - used[10]) / 200
    print(f"Ray: {each:.3f} CPU s an item, {each / part_seconds:.3%} of a part of {part_seconds:.0f} CPU s")


def _children() -> float:
    """CPU seconds of all live descendants."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
            total += times.user + times.system
        except psutil.Error:
            continue
    return total


if __name__ == "__main__":
    run_command(curation_share)
