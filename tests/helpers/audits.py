"""The files of the audits and of people's votes, by hand."""

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


def people(**changes: Any) -> dict[str, Any]:
    """120 votes of eight raters on dpo and base, by one question."""
    rate = {"votes": 120, "rate": 0.52, "ci_low": 0.45, "ci_high": 0.6}
    log_odds = {"value": 0.8, "ci_low": 0.4, "ci_high": 1.2}
    asked = {"question": "overall"}
    return {
        "schema": 1,
        "simulated": False,
        "raters": 8,
        "votes": 120,
        "skipped": 3,
        "other_images": 0,
        "checks": {"rule": "2 wrong", "answered": 24, "passed": 22, "raters_failed": 1, "votes_left_out": 11},
        "win_rates": [
            {**asked, "policy": "dpo", "baseline": "base", "prompts": 60, "wins": 80, "ties": 10, "both_bad": 2}
            | {"losses": 30, "win_rate": 0.708, "ci_low": 0.6, "ci_high": 0.8, "raters": 8, "raters_for": 7}
        ],
        "strengths": [
            {**asked, "votes": 120, "prompts": 60, "position": log_odds, "tie": None}
            | {"strengths": [{"policy": "base", **dict.fromkeys(log_odds, 0.0)}, {"policy": "dpo", **log_odds}]}
        ],
        "agreement": [{**asked, "pairs": 40, "alpha": 0.412, "ci_low": 0.3, "ci_high": 0.5, "agree": 0.71}],
        "sides": [{**asked, "left": rate, "consistent": {**rate, "rate": None, "ci_low": None, "ci_high": None}}],
    } | changes
