"""From other projects' files to a keypoint store: one module per format."""
