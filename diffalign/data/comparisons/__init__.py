"""Comparisons on disk."""
