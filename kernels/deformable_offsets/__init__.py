"""The query of each joint and its sampling position: the keypoint plus a learned offset."""
