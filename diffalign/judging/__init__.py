"""Rewards as judges: ready to score, with the scores that they have given."""
