"""Prompts that images are made for: published sets by name, and files of one's own."""
