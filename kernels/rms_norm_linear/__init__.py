"""Linear projections of an input after RMS normalization."""
