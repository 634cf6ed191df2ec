"""Builds the embedded default: the tiny model and its comparisons."""
