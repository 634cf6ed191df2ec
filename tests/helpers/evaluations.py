"""Results as evaluate writes them, by hand: a comparison, and a whole file."""

from typing import Any


def comparison(policy: str, baseline: str = "base", **changes: Any) -> dict[str, Any]:
    """A comparison by the oracle on the test split, of a win for 280 prompts of 320."""
    row = {
        "policy": policy,
        "baseline": baseline,
        "scorer": "oracle",
        "set": "test",
        "prompts": 320,
        "seeds": 1,
        "wins": 280,
        "ties": 8,
        "losses": 32,
        "win_rate": 0.8875,
        "ci_low": 0.85,
        "ci_high": 0.92,
        "p": 0.001,
        "p_holm": 0.002,
        "effect": 0.5,
        "effect_low": 0.4,
        "effect_high": 0.6,
        "same_noise": True,
        "differs": (),
        "in_family": False,
    }
    return row | changes


def evaluation(**changes: Any) -> dict[str, Any]:
    """An evaluation with nothing in it but what is given."""
    lists = ("comparisons", "head_to_heads", "categories", "over_seeds", "implicit_reward", "rewards", "alarms")
    return {"schema": 3, **{name: [] for name in lists}, "policies": {}, "images": {}} | changes
