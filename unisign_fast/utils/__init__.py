"""Shared helpers: commands, processes, event logs."""
