"""A whole corpus: its statistics and recordings."""
