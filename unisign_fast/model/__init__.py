"""The Uni-Sign model: from keypoints and hand crops to mT5's hidden states, the loss and tokens."""
