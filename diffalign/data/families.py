"""Tags of what a reward or a policy learnt from; where the two share one, the reward judges in-family."""

OWN = "own"
"""The comparisons in data/comparisons, whatever they are: of a policy or a reward that was trained on them here."""
