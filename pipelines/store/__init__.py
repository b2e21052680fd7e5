"""Keypoints and hand crops on disk: Zarr arrays, manifests, checksums."""
