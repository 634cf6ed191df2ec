"""The study's runs on rounds: as many labels asked at once, and in two rounds, each of the newest policy's images."""

from typing import Any

from studies.claims import BASE, Claim, beats
from studies.groups import Group, Run

PROMPTS, STEPS = 125, 80
"""Of one round; asked at once there are twice as many."""
IMAGES = 3
"""Images of a prompt, each compared with each: as many labels."""
TEMPERATURE = 0.1
"""Of the simulated raters, who follow the oracle, in units of its score."""


def round_of(maker: str, prompts: int, seed: int) -> dict[str, Any]:
    """Returns a round of a run's images, or the base's, labelled by raters who follow the oracle."""
    return {
        "policy": maker,
        "prompts": prompts,
        "images_per_prompt": IMAGES,
        "label": "oracle",
        "least_votes": None,
        "temperature": TEMPERATURE,
        "rule": "all_pairs",
        "with_base": False,
        "with_rounds": [],
        "reference": f"models/policies/{maker}",
        "seed": seed,
    }


ROUND_RUNS: dict[str, Run] = {
    "at_once": Run("DPO, all labels at once", "dpo", {"steps": 2 * STEPS}, round=round_of(BASE, 2 * PROMPTS, 1)),
    "round_1": Run("DPO, the first round", "dpo", {"steps": STEPS}, round=round_of(BASE, PROMPTS, 1)),
    "round_2": Run("DPO, two rounds", "dpo", {"steps": STEPS}, round=round_of("round_1", PROMPTS, 2)),
}
ROUND_GROUPS = (
    Group(
        "rounds",
        "Offline against two rounds of the policy's own images, at equal labels and steps",
        ("at_once", "round_1", "round_2"),
        (
            Claim(
                "A second round of the policy's own images improves it",
                "Guo et al. 2024, arXiv 2402.04792; Xiong et al. 2024, arXiv 2312.11456, of language models",
                (beats("round_1", BASE), beats("round_2", "round_1")),
            ),
            Claim(
                "Labels asked in rounds train better than as many asked at once",
                "the same",
                (beats("round_2", "at_once"),),
            ),
        ),
        extra=True,
    ),
)
"""The groups that only `--only` makes."""
