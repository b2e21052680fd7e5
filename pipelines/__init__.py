"""From video and keypoints to packed batches. Contains no model code and imports no other package of the project."""
