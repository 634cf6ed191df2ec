"""Simulated voters: votes drawn from Davidson's model with known strengths, tie and position terms."""

import hashlib
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import numpy as np

from diffalign.data.votes import Vote

START = datetime(2026, 1, 1, tzinfo=UTC)


def digest(*parts: object) -> str:
    """A SHA-256 in hex, of anything."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def vote(**changes: Any) -> Vote:
    """A vote for the left image, of policy x, over policy y's."""
    values: dict[str, Any] = {
        "pair_id": "p0",
        "kind": "pair",
        "question": "overall",
        "answer": "a",
        "expected": None,
        "prompt": "a disc",
        "model_a": "x",
        "model_b": "y",
        "rater_id": "r0",
        "seed": 0,
        "created_at": START,
        **changes,
    }
    values.setdefault("image_a", digest(values["prompt"], values["model_a"]))
    values.setdefault("image_b", digest(values["prompt"], values["model_b"]))
    values.setdefault("vote_id", digest(sorted(values.items(), key=str))[:16])
    return Vote(**values)


def flipped(one: Vote, **changes: Any) -> Vote:
    """A vote with the sides swapped and, but for changes, the answer of the same meaning."""
    swapped = {
        "image_a": one.image_b,
        "image_b": one.image_a,
        "model_a": one.model_b,
        "model_b": one.model_a,
        "answer": {"a": "b", "b": "a"}.get(one.answer, one.answer),
    }
    same = {name: getattr(one, name) for name in ("pair_id", "kind", "question", "prompt", "rater_id", "seed")}
    return vote(**{**same, **swapped, **changes})


def simulate(
    strengths: dict[str, float],
    *,
    prompts: int,
    raters: int,
    position: float = 0.0,
    tie: float = -1.0,
    seed: int = 0,
) -> list[Vote]:
    """Every simulated rater votes on every two policies' images for every prompt, sides at random."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(prompts):
        for first, second in combinations(strengths, 2):
            for rater in range(raters):
                a, b = (first, second) if rng.random() < 0.5 else (second, first)
                of_a, of_b = strengths[a], strengths[b]
                logits = np.array([of_a + position / 2, of_b - position / 2, tie + (of_a + of_b) / 2])
                weights = np.exp(logits)
                answer = rng.choice(["a", "b", "tie"], p=weights / weights.sum())
                found.append(
                    vote(
                        answer=str(answer),
                        prompt=f"prompt {number}",
                        pair_id=f"{number}-{first}-{second}",
                        model_a=a,
                        model_b=b,
                        rater_id=f"simulated-{rater}",
                        created_at=START + timedelta(seconds=len(found)),
                    )
                )
    return found


def images(votes: list[Vote], *policies: str) -> dict[str, set[str]]:
    """The images of each policy that votes name."""
    found: dict[str, set[str]] = {name: set() for name in policies}
    for one in votes:
        for model, image in ((one.model_a, one.image_a), (one.model_b, one.image_b)):
            if model in found:
                found[model].add(image)
    return found
