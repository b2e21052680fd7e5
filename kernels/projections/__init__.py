"""Several linear projections of one input."""
