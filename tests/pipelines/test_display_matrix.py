"""Videos that are shown rotated or mirrored."""

import numpy as np
import pytest
from numbered_videos import HEIGHT, VP9, WIDTH, assert_shows, shown, write
from refusals import refusal

from unisign_fast.pipelines.crops.video import VideoFile
from unisign_fast.pipelines.errors import InputError

MATRICES = {  # how a player rotates the coded picture: a, b, c, d with (x, y) shown at (ax + cy, bx + dy)
    "90 clockwise": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "90 counter-clockwise": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed the other way": (0, -1, -1, 0),
}


def coded_for(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """The coded picture that the matrix turns into `picture`, pixel by pixel."""
    a, b, c, d = matrix
    height, width = picture.shape[:2] if a else picture.shape[1::-1]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    across, down = a * x + c * y, b * x + d * y
    return picture[down - down.min(), across - across.min()]


@pytest.mark.parametrize("name", MATRICES)
def test_pictures_are_read_as_a_player_turns_them(tmp_path, name):
    a, b, c, d = matrix = MATRICES[name]
    pictures = [coded_for(shown(number), matrix) for number in range(6)]
    path = write(tmp_path / "clip.mp4", pictures, matrix=[a, b, 0, c, d, 0, 0, 0, 1])
    assert_shows(path, list(range(6)))


def test_vp9_with_a_display_matrix_is_not_left_to_dali(tmp_path):
    """DALI also decodes VP9 on a CPU, but ignores the display matrix."""
    pictures = [coded_for(shown(number), MATRICES["180"]) for number in range(6)]
    path = write(tmp_path / "clip.mp4", pictures, "libvpx-vp9", VP9, matrix=[-1, 0, 0, 0, -1, 0, 0, 0, 1])
    assert_shows(path, list(range(6)))


def test_an_odd_angle_is_refused(tmp_path):
    path = write(tmp_path / "clip.mp4", [shown(0)] * 3, matrix=[0.8, 0.6, 0, -0.6, 0.8, 0, 0, 0, 1])
    assert "clip.mp4: frame 0 is shown rotated or skewed by other than right angles" in refusal(VideoFile, path)


def test_a_box_shows_its_pixels_of_a_rotated_video(tmp_path):
    path = write(tmp_path / "v.mp4", [shown(number) for number in range(4)], matrix=[0, 1, 0, -1, 0, 0, 0, 0, 1 / 4])
    box = (3, 10, 41, 50)
    with VideoFile(path) as whole, VideoFile(path, box) as cropped:
        assert (cropped.width, cropped.height) == (38, 40) and (whole.width, whole.height) == (HEIGHT, WIDTH)
        assert not cropped.plain
        assert all((a[10:50, 3:41] == b).all() for a, b in zip(whole.pictures(), cropped.pictures(), strict=True))
    with pytest.raises(InputError, match="has pictures of 64x96, and the box is"):
        VideoFile(path, (0, 0, 65, 10))
