"""Keypoint-guided deformable sampling of a feature map, and the attention over its samples."""
