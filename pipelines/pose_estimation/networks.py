"""The two networks of pose estimation, ONNX files run by onnxruntime: a person detector and a whole-body pose network.

Pre- and postprocessing (letterbox, crop, SimCC decoding) and the default weights are rtmlib's: YOLOX-m and
RTMW-l 384x288, which rtmlib's Wholebody uses in its mode "performance". The paper's RTMPose-x (appendix A.1) has the
same input, outputs and 133 keypoints, but is released as a PyTorch checkpoint alone, MMPose's
rtmpose-x_simcc-coco-wholebody_pt-body7_270e-384x288-401dfc90_20230629.pth. Exported with MMDeploy, it can be given as a
file.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np

from ..errors import InputError
from ..skeleton import JOINTS

try:
    import cv2
    import onnxruntime
    import rtmlib
    from rtmlib.tools.file import _get_rtmhub_dir, download_checkpoint, get_mirror_url
    from rtmlib.tools.object_detection.post_processings import multiclass_nms
except ImportError as error:
    remedy = "bash launch/install.sh poses (a missing libGL.so.1 comes with the system's package libgl1)"
    raise InputError("pose estimation", f"its packages cannot be imported ({error})", remedy) from None

DEFAULT = rtmlib.Wholebody.MODE["performance"]
MIN_CONFIDENCE = 0.3  # minimum score of a detection, rtmlib's threshold for the default detector
MAX_OVERLAP = 0.45  # overlap above which two detections are one person, rtmlib's threshold
STRIDES = (8, 16, 32)  # strides of YOLOX's three grids


class _Tool(Protocol):
    """What this module uses of rtmlib's YOLOX and RTMPose."""

    session: Any  # onnxruntime.InferenceSession
    model_input_size: tuple[int, int]
    mean: Any  # of the network's pictures by channel
    std: Any
    preprocess: Callable[..., Any]
    inference: Callable[[np.ndarray], list[np.ndarray]]
    postprocess: Callable[..., tuple[np.ndarray, np.ndarray]]


class PersonDetector:
    """YOLOX: detects the persons in pictures."""

    def __init__(self, weights: Path, device: str = "cpu", batch: int = 8):
        """`weights`: an ONNX file with or without non-maximum suppression inside.

        `device`: "cpu" or "cuda". `batch`: pictures a run, unless the file fixes it. Raises InputError if weights or
        device are unavailable, or the file is not such a network.
        """
        self.weights = weights
        self._yolox = _load(rtmlib.YOLOX, self.weights, DEFAULT["det_input_size"], device)
        fixed_batch, _, height, width = self._yolox.session.get_inputs()[0].shape
        if isinstance(height, int) and isinstance(width, int):
            self._yolox.model_input_size = (height, width)
        shapes = [answer.shape for answer in _probe(self._yolox, self.weights, self._yolox.model_input_size)]
        height, width = self._yolox.model_input_size
        anchors = sum((height // stride) * (width // stride) for stride in STRIDES)
        self._suppresses = len(shapes) == 2 and shapes[0][-1] == 5
        if not self._suppresses and (shapes[0][:2] != (1, anchors) or shapes[0][-1] <= 5):
            raise InputError(self.weights, f"is not a YOLOX detector: it returns {shapes}", "name the ONNX file of one")
        self.batch = 1 if isinstance(fixed_batch, int) or not _takes_batches(self._yolox) else batch

    def __call__(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """RGB pictures [height, width, 3] uint8 -> for each, [persons, 5]: left, top, right, bottom in pixels,
        confidence."""
        starts = range(0, len(pictures), self.batch)
        return [persons for start in starts for persons in self._detect(pictures[start : start + self.batch])]

    def _detect(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The persons in at most `batch` pictures."""
        images = np.empty((len(pictures), 3, *self._yolox.model_input_size), np.float32)
        ratios = []
        for row, picture in enumerate(pictures):
            image, ratio = self._yolox.preprocess(picture)
            images[row] = image[..., ::-1].transpose(2, 0, 1)  # trained on BGR
            ratios.append(ratio)
        answer = _run(self._yolox, images)
        result = []
        for row, ratio in enumerate(ratios):
            if self._suppresses:
                persons = answer[0][row][answer[1][row] == 0]  # class 0 is the person
            else:
                persons = self._suppress_overlaps(answer[0][row])
            persons = persons[persons[:, 4] > MIN_CONFIDENCE]
            result.append(persons / np.array([ratio, ratio, ratio, ratio, 1], np.float32))
        return result

    def _suppress_overlaps(self, raw: np.ndarray) -> np.ndarray:
        """[anchors, 5 + classes] of a network without suppression -> [persons, 5], in the network's pixels."""
        height, width = self._yolox.model_input_size
        cells, strides = [], []
        for stride in STRIDES:
            grid = np.meshgrid(np.arange(width // stride), np.arange(height // stride))
            cells.append(np.stack(grid, -1).reshape(-1, 2))
            strides.append(np.full((len(cells[-1]), 1), stride))
        cell_A2, stride_A1 = np.concatenate(cells), np.concatenate(strides)
        centre, size = (raw[:, :2] + cell_A2) * stride_A1, np.exp(raw[:, 2:4]) * stride_A1
        boxes = np.concatenate([centre - size / 2, centre + size / 2], -1)
        result, _ = multiclass_nms(boxes, raw[:, 4:5] * raw[:, 5:6], MAX_OVERLAP, MIN_CONFIDENCE)
        return np.zeros((0, 5), np.float32) if result is None else result[:, :5].astype(np.float32)


class PoseNetwork:
    """A whole-body network with SimCC outputs: batches of crops in, keypoints out."""

    def __init__(self, weights: Path, device: str = "cpu", batch: int = 32):
        """`weights`: an ONNX file ([N, 3, h, w] -> [N, 133, 2w], [N, 133, 2h]).

        `batch`: crops a run, unless the file fixes it. `device` and errors as for PersonDetector.
        """
        self.weights = weights
        self._rtmpose = _load(rtmlib.RTMPose, self.weights, DEFAULT["pose_input_size"], device)
        fixed_batch, _, height, width = self._rtmpose.session.get_inputs()[0].shape
        if isinstance(height, int) and isinstance(width, int):
            self._rtmpose.model_input_size = (width, height)
        width, height = self._rtmpose.model_input_size
        shapes = [output.shape for output in _probe(self._rtmpose, self.weights, (height, width))]
        expected = [(1, JOINTS, 2 * width), (1, JOINTS, 2 * height)]
        if shapes != expected:
            problem = f"is not a whole-body SimCC network: it returns {shapes} instead of {expected}"
            raise InputError(self.weights, problem, "name the ONNX file of one")
        self.batch = 1 if isinstance(fixed_batch, int) else batch
        # rtmlib's examples give BGR, but its mean and the network's training (MMPose, bgr_to_rgb) are RGB.
        levels = np.arange(256)[:, None]
        self._normalized = ((levels - self._rtmpose.mean) / self._rtmpose.std).astype(np.float32)  # [256, 3]
        self._rtmpose.mean = None  # so that `preprocess` leaves it to the table, which is ten times as fast

    def crop(self, picture: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A box in an RGB picture as the network sees it: [h, w, 3] uint8, its centre [2] and size [2] in pixels."""
        return self._rtmpose.preprocess(picture, box)

    def __call__(self, crops: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """At most `batch` crops -> keypoints [crops, 133, 2] in pixels of their pictures, confidences [crops, 133]."""
        images, centres, sizes = zip(*crops)
        normalized = np.empty((len(crops), 3, *images[0].shape[:2]), np.float32)
        for row, image in enumerate(images):
            for channel in range(3):
                normalized[row, channel] = cv2.LUT(image[..., channel], self._normalized[:, channel])
        answer = _run(self._rtmpose, normalized)
        return self._rtmpose.postprocess(answer, np.stack(centres)[:, None], np.stack(sizes)[:, None])


def open_networks(
    detector: Path | None = None, pose_model: Path | None = None, device: str = "cpu"
) -> tuple[PersonDetector, PoseNetwork]:
    """Both networks, with the files and errors of `weights_of`."""
    detector, pose_model = weights_of(detector, pose_model)
    return PersonDetector(detector, device), PoseNetwork(pose_model, device)


def weights_of(detector: Path | None, pose_model: Path | None) -> tuple[Path, Path]:
    """The ONNX files of the networks; None: rtmlib's, downloaded once.

    Raises InputError if a named file is missing, before any download, or if a download fails: that names the files of
    both networks, so that they can be fetched together.
    """
    given = {"det": detector, "pose": pose_model}
    for named in filter(None, given.values()):
        _check_present(named)
    files: list[Path] = []
    for kind, file in given.items():
        try:
            files.append(file or Path(download_checkpoint(DEFAULT[kind])))
        except (OSError, HTTPException, BadZipFile) as error:
            missing = [kind for kind in list(given)[len(files) :] if given[kind] is None]
            raise _not_downloaded(missing, error) from None
    return files[0], files[1]


def _not_downloaded(kinds: list[str], error: Exception) -> InputError:
    """What to put where, for rtmlib's weights of `kinds` ("det", "pose")."""
    urls = [DEFAULT[kind] for kind in kinds]
    folder = Path(_get_rtmhub_dir(), "checkpoints")
    mirrors = " and ".join(str(get_mirror_url(url)) for url in urls)
    options = " and ".join({"det": "--detector", "pose": "--pose-model"}[kind] for kind in kinds)
    remedy = f"fetch this on another machine and put it into {folder} (the same is at {mirrors}), or give ONNX files"
    return InputError(" and ".join(urls), f"the weights cannot be downloaded ({error})", f"{remedy} with {options}")


def _check_present(weights: Path) -> None:
    if not weights.is_file():
        raise InputError(weights, "is missing", "name the ONNX file of the network")


def _load(kind: Callable[..., _Tool], weights: Path, size: tuple[int, int], device: str) -> _Tool:
    """An rtmlib tool of class `kind` with its session."""
    _check_present(weights)
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    remedy = "pip uninstall onnxruntime, then pip install onnxruntime-gpu[cuda,cudnn]; or use cpu"
    if provider not in onnxruntime.get_available_providers():
        raise InputError(f"device {device}", "is not known to this onnxruntime", remedy)
    try:
        with redirect_stdout(sys.stderr):
            if device == "cuda":
                onnxruntime.preload_dlls()  # CUDA and cuDNN from the packages of pip, where no linker looks for them
            network = kind(str(weights), size, backend="onnxruntime", device=device)
    except Exception as error:  # onnxruntime raises a separate class for every kind of bad file
        raise InputError(weights, f"is not an ONNX network ({error})", "copy or download the file again") from None
    if provider not in network.session.get_providers():  # onnxruntime falls back to the CPU with only a warning
        raise InputError(f"device {device}", "does not work here", remedy)
    return network


def _run(network: _Tool, images: np.ndarray) -> list[np.ndarray]:
    """The network's outputs for images [N, 3, h, w] float32."""
    session = network.session
    return session.run(None, {session.get_inputs()[0].name: images})


def _takes_batches(detector: _Tool) -> bool:
    """Whether a detector answers two pictures with two rows: some files allow any batch and reshape for one."""
    try:
        answer = _run(detector, np.zeros((2, 3, *detector.model_input_size), np.float32))
    except Exception:  # onnxruntime's exceptions have no common class
        return False
    return all(len(output) == 2 for output in answer)


def _probe(network: _Tool, weights: Path, size: tuple[int, int]) -> list[np.ndarray]:
    """The network's output for a black picture of `size` (height, width)."""
    try:
        return network.inference(np.zeros((*size, 3), np.float32))
    except Exception as error:
        raise InputError(weights, f"does not run ({error})", "name the ONNX file of such a network") from None
