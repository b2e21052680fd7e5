"""Uni-Sign itself: keypoints and hand crops to mT5's hidden states, loss and tokens."""
