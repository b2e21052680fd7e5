"""Models on disk: folders, cards and weight files. Does not depend on any model."""
