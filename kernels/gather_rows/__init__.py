"""Rows by their index."""
