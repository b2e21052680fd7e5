"""From other projects' files to a keypoint store: one module per pose format, one folder for labels."""
