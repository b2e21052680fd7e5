"""From videos, keypoints or a camera to text."""
