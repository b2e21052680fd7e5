"""Camera capture, and the signer's keypoints frame by frame."""

from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np

from ..errors import InputError
from ..signer_tracking import follow_signer
from ..skeleton import JOINTS
from .networks import PersonDetector, PoseNetwork

REMEMBERED = 50  # frames for which the signer may stay undetected


def pictures(camera: str) -> Iterator[np.ndarray]:
    """RGB [height, width, 3] uint8 of a camera (its number, device or address) or a video file, in order of arrival.
    Ends at the end of the file or when the camera stops. Raises InputError if there is no picture at all.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the InputError below is enough
    capture = cv2.VideoCapture(int(camera) if camera.isdigit() else camera)
    seen = False
    try:
        while (answer := capture.read())[0]:
            seen = True
            yield np.ascontiguousarray(answer[1][..., ::-1])
    finally:
        capture.release()
    if not seen:
        problem = "no picture comes from such a camera"
        raise InputError(f"--live {camera}", problem, "plug it in, or give another's number (0, 1, ...) or device")


class LivePose:
    """Keypoints of the signer: the largest and most confident person over the last REMEMBERED frames."""

    def __init__(self, detector: PersonDetector, network: PoseNetwork):
        self._detector, self._network = detector, network
        self._detections: deque[np.ndarray] = deque(maxlen=REMEMBERED)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """[133, 3] float32: x and y as fractions of the picture, confidence; zeros where the signer is not found."""
        self._detections.append(self._detector([picture])[0])
        number = follow_signer(self._detections)[-1]
        if number is None:
            return np.zeros((JOINTS, 3), np.float32)
        box = self._detections[-1][number, :4]
        points, confidence = self._network([self._network.crop(picture, box)])
        height, width, _ = picture.shape
        return np.concatenate([points[0] / (width, height), confidence[0][:, None]], axis=-1).astype(np.float32)
