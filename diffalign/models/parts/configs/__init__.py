"""Schemas of the config files in a model's folder: each key is used, known to change nothing, or refused."""
