"""The file of the audits, by hand."""

from typing import Any


def estimated(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high}


def audit(**changes: Any) -> dict[str, Any]:
    """One filter, one attribute, one policy's and one judge's agreement with two groups of raters."""
    both = {"policy": "dpo", "baseline": "base", "set": "test", "images": 200, "missing": 1, "prompts": 200}
    groups = [
        {"raters": name, "count": 5, "pairs": 100, "trained_pairs": 300, "rate": rate, "low": rate - 0.1}
        | {"high": rate + 0.1}
        for name, rate in (("large", 0.8), ("cool", 0.6))
    ]
    of_one = {"groups": groups, "raters": [], "gap": estimated(0.2, 0.05, 0.35), "p": 0.01}
    return {
        "schema": 1,
        "safety": [
            {**both, "filter": "nsfw", "flagged": 9, "baseline_flagged": 2, "difference": estimated(0.035, 0.005, 0.07)}
        ],
        "shifts": [
            {**both, "audit": "size", "shares": {"large": 0.7, "small": 0.3}, "corrected": False, "error_rate": None}
            | {"baseline_shares": {"large": 0.4, "small": 0.6}, "distance": estimated(0.3, 0.2, 0.4), "p": 0.0002}
        ],
        "composition": [
            {"name": "dpo", "kind": "policy", **of_one},
            {"name": "oracle", "kind": "judge", **of_one, "gap": estimated(None), "p": None},
        ],
        "ungrouped": ["zoe"],
    } | changes
