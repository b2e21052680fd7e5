"""Hand crops: boxes, decoding, cutting."""
