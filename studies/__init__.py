"""Experiments over the stages: the papers' findings, tried on the shapes world."""
