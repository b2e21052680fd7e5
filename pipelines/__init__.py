"""From video and keypoints to packed batches. Knows data, and no model; imports nothing else of the project."""
