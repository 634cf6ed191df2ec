"""Pinned downloads from the Hugging Face hub."""
