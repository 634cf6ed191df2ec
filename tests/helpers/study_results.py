"""Results of the study's runs, made up, and their summary."""

import json
from typing import Any

from studies import personal_results, personal_world
from studies import results as study_results
from studies.claims import BASE

HOW = {"resamples": 200, "confidence": 0.95, "seed": 0}


def result(scores: list[float | None], **changes: Any) -> dict[str, Any]:
    """A run whose images have these scores, one a prompt, with changes."""
    n = len(scores)
    rest = {
        "moved": 0.1,
        "settings": "abc",
        "proxy": scores,
        "seconds": 1.0,
        "kl": 12.5,
        "implicit": {"outcomes": [1.0, 0.0], "prompts": [0, 1]},
        "end": {},
        "course": {},
        "training_seconds": 1.0,
        "commit": "abc",
        "alarms": None,
        "chosen": 300,
    }
    return {
        "prompts": f"{n} prompts",
        "indices": list(range(n)),
        "scores": scores,
        "proxy": scores,
        "seconds": 1.0,
        **rest,
        **changes,
    }


ABOUT = {"judge": "oracle", "split": "test", "prompts": 40, "steps": None, "draws": 4, "commit": "abc"}


def made() -> dict[str, Any]:
    """DPO's 40 images beat the base's, SFT's lose; an alarm was raised in SFT's training."""
    alarm = {"name": "winner_worse", "step": 50, "last": 300, "value": 0.1, "threshold": 0.02}
    curve = {"implicit_accuracy": 0.71, "winner_change": -1.5e-3, "loser_change": 2e-3, "loss": 0.6}
    results = {
        BASE: result([0.5] * 40),
        "dpo": result([0.6] * 40, end=curve, alarms=[], seconds=90),
        "sft": result([0.4] * 40, alarms=[alarm], seconds=90),
    }
    found: dict[str, Any] = json.loads(json.dumps(study_results.summary(results, ABOUT, HOW)))
    return found


def personal_seed(better: dict[str, str], n: int = 40, **changes: Any) -> dict[str, Any]:
    """A seed of `personal`: policies in `better` win by the group named there on all prompts, others are the base."""
    base = {group: [0.0] * n for group in personal_world.GROUPS}
    scores = dict.fromkeys((BASE, *personal_world.described()), base)
    scores |= {policy: base | {group: [1.0] * n} for policy, group in better.items()}
    about = {"settings": "abc", "commit": "abc", "prompts": f"{n} prompts", "indices": list(range(n)), "seconds": 500.0}
    return {**about, "scores": scores, **changes}


def made_personal() -> dict[str, Any]:
    """Left's own policy beats everything by left; one of three seeds."""
    about = {"split": "test", "prompts": 40, "steps": None}
    found = personal_results.summary({personal_world.NAME: personal_seed({"own_left": "left"})}, about, HOW)
    whole: dict[str, Any] = json.loads(json.dumps(found, sort_keys=True))  # as it's written
    return whole
