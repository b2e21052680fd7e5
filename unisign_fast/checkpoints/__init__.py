"""Models on disk: folders, cards, files of weights. Knows no model."""
