"""A corpus as a whole: its statistics, its recordings."""
