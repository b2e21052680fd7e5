"""CPU-only code."""
