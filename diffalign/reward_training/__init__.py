"""Training of a reward model: a CLIP that learns from comparisons which of two images people prefer."""
