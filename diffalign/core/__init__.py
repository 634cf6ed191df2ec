"""Errors, files and progress: what everything else uses; imports neither the project nor torch."""
