"""Encoded images and prompts in WebDataset shards."""
