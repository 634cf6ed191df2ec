"""Rewards: models and programs that score images for prompts, one file each."""
