"""Translation of videos, keypoints and camera pictures into text."""
