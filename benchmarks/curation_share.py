"""Where the processor time of a part goes: pose network, detector, decoding and the rest; and what Ray takes.

    python benchmarks/curation_share.py

Counts CPU seconds, so that other work on the machine does not change the shares. The pose network has RTMPose-l's
shapes at 384x288 with random weights; the programme is 1024x576. --detector FILE takes a real one, a YOLOX as an ONNX
file: it runs for its cost, and the tests' stand-in says where the drawn person is.
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
from unisign_fast.pipelines.pose_estimation.networks import PersonDetector
from unisign_fast.utils.console import run_command

BOX = (0.6, 0.3, 1.0, 1.0)
FPS = 25
POINTWISE, DEPTHWISE = 1, 5  # kernel sizes
UNSURE = 1e-3  # random joints that were sure would be taken for a box that cuts the signer off


class Builder:
    """An ONNX graph of random weights, layer by layer; every method returns the name of its output."""

    def __init__(self):
        self.nodes: list = []
        self.weights: list = []
        self.rng = np.random.default_rng(0)
        self.multiplications = 0  # of one picture, by convolutions and products

    def add(self, kind: str, inputs: list[str], **attributes) -> str:
        """An operator."""
        name = f"{kind} {len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        """A tensor of the file."""
        name = f"constant {len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def conv(self, x: str, size: tuple[int, int], given: int, made: int, kernel: int, stride=1, groups=1) -> str:
        """A convolution and SiLU. `size`: height and width of the output."""
        fan = given // groups * kernel**2
        weight = self.constant((self.rng.normal(size=(made, given // groups, kernel, kernel)) / fan**0.5).astype("f"))
        self.multiplications += made * fan * size[0] * size[1]
        pads, strides = [kernel // 2] * 4, [stride, stride]
        y = self.add("Conv", [x, weight], pads=pads, strides=strides, group=groups)
        return self.add("Mul", [y, self.add("Sigmoid", [y])])

    def product(self, x: str, rows: int, given: int, made: int, scale: float = 1.0) -> str:
        """A product of [rows, given] with a matrix."""
        weight = self.constant((self.rng.normal(size=(given, made)) * scale / given**0.5).astype("f"))
        self.multiplications += rows * given * made
        return self.add("MatMul", [x, weight])


def write_pose_network(path: Path) -> int:
    """A network of RTMPose-l's shapes at 384x288: CSPNeXt-l and the head of 133 joints; its multiplications a crop.

    Lyu et al., 2022 (RTMDet) for the backbone; Jiang et al., 2023 (RTMPose) for the head: [N, 3, 384, 288] -> SimCC.
    """
    b, size = Builder(), (192, 144)
    x = b.conv("input", size, 3, 32, 3, stride=2)
    x = b.conv(b.conv(x, size, 32, 32, 3), size, 32, 64, 3)
    for given, made, blocks in ((64, 128, 3), (128, 256, 6), (256, 512, 6), (512, 1024, 3)):
        size = (size[0] // 2, size[1] // 2)
        x = _stage(b, b.conv(x, size, given, made, 3, stride=2), size, made, blocks, pyramid=made == 1024)
    cells = size[0] * size[1]
    x = b.add("Reshape", [b.conv(x, size, 1024, JOINTS, 7), b.constant(np.array([0, JOINTS, cells]))])
    x = b.product(x, JOINTS, cells, 256)
    gate = b.product(x, JOINTS, 256, 512)  # the gated attention unit over the joints
    values, query = b.product(x, JOINTS, 256, 512), b.product(x, JOINTS, 256, 128)
    attention = b.add("MatMul", [query, b.add("Transpose", [query], perm=[0, 2, 1])])
    b.multiplications += JOINTS**2 * (128 + 512)
    attended = b.add("MatMul", [b.add("Softmax", [attention], axis=-1), values])
    x = b.add("Add", [x, b.product(b.add("Mul", [gate, attended]), JOINTS, 512, 256)])
    outputs = []
    for name, length in (("simcc_x", 576), ("simcc_y", 768)):
        b.nodes.append(helper.make_node("Identity", [b.product(x, JOINTS, 256, length, UNSURE)], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", JOINTS, length]))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 384, 288])
    graph = helper.make_graph(b.nodes, "heavy", [given], outputs, b.weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return b.multiplications


def _stage(b: Builder, x: str, size: tuple[int, int], channels: int, blocks: int, pyramid: bool) -> str:
    """CSPNeXt's stage: half of the channels pass the blocks; channel attention; in the last one a pyramid before."""
    half = channels // 2
    if pyramid:
        x = b.conv(x, size, channels, half, POINTWISE)
        pools = [b.add("MaxPool", [x], kernel_shape=[k, k], pads=[k // 2] * 4) for k in (5, 9, 13)]
        x = b.conv(b.add("Concat", [x, *pools], axis=1), size, 4 * half, channels, POINTWISE)
    beside, y = b.conv(x, size, channels, half, POINTWISE), b.conv(x, size, channels, half, POINTWISE)
    for _ in range(blocks):
        z = b.conv(y, size, half, half, 3)
        z = b.conv(z, size, half, half, DEPTHWISE, groups=half)
        z = b.conv(z, size, half, half, POINTWISE)
        y = z if pyramid else b.add("Add", [y, z])
    x = b.add("Concat", [y, beside], axis=1)
    weight = b.add("HardSigmoid", [b.conv(b.add("GlobalAveragePool", [x]), (1, 1), channels, channels, POINTWISE)])
    return b.conv(b.add("Mul", [x, weight]), size, channels, channels, POINTWISE)


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


class Detector:
    """The stand-in's answers, at the cost of a real detector where there is one."""

    def __init__(self, stand_in: PersonDetector, real: PersonDetector | None):
        self.answers, self.real = stand_in, real
        self.batch, self.pictures = (real or stand_in).batch, 0

    def __call__(self, pictures):
        """Persons in each picture."""
        self.pictures += len(pictures)
        if self.real:
            self.real(pictures)
        return self.answers(pictures)


def curation_share(seconds: int = 8, part_minutes: float = 5, detector: Path | None = None) -> None:
    """Count the CPU seconds of one part, and of Ray for each item.

    Args:
        seconds: Length of the programme.
        part_minutes: Length of the parts for Ray's share.
        detector: ONNX file of a YOLOX to count, instead of a stand-in that costs nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        video, frames = write_material(root, seconds), seconds * FPS
        files = write_detector(root / "detector.onnx"), root / "pose.onnx"
        print(f"pose network of {write_pose_network(files[1]) / 1e9:.1f} G multiplications a frame")
        maker = PartMaker(str(root / "out"), "r", *files, "cpu")
        maker.load()
        maker._is_loaded = True
        both = Detector(maker._detector, PersonDetector(detector) if detector else None)
        network, detection = Counted(maker._network._rtmpose.session.run), Counted(both)
        detection.batch = both.batch
        maker._detector = detection
        maker._network._rtmpose.session = _Session(maker._network._rtmpose.session, network)
        item = {"key": f"{'0' * 16}-{'1' * 16}", "video": str(video), "first": 0, "end": frames, "fps": FPS, "box": BOX}
        before = cpu_seconds()
        assert maker(item)["state"] == "done"
        whole = cpu_seconds() - before
        rest = whole - network.seconds - detection.seconds
        print(f"{frames} frames, {both.pictures} detections: {whole:.1f} CPU s, of which")
        for name, used in (
            ("pose network", network.seconds),
            (f"detector ({detector.name if detector else 'stand-in'})", detection.seconds),
            ("decoding twice, crops, decoding of SimCC, writing", rest),
        ):
            print(f"  {name}: {used:.2f} s, {1000 * used / frames:.1f} ms a frame, {used / whole:.1%}")
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
