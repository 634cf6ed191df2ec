"""Scorers of images, one file each."""
