"""Keypoints from video: a person detector, a tracker and a whole-body pose network; `extraction` processes folders."""
