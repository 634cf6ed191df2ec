"""The study's runs on rounds: as many labels asked at once, and in two rounds, each of the newest policy's images."""

from typing import Any

from studies.claims import BASE, Claim, beats
from studies.groups import Group, Run, named

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


NAMES = ("at_once", "round_1", "round_2")


def runs(seed: int) -> dict[str, Run]:
    """Returns the runs with a seed of training, which their rounds' prompts, noise and raters differ by, too."""
    at_once, first, second = (named(name, seed) for name in NAMES)
    said, training = (f", seed {seed}", {"seed": seed}) if seed else ("", {})
    draws = 1 + 10 * seed  # a seed has the second round's besides
    return {
        at_once: Run(
            f"DPO, all labels at once{said}",
            "dpo",
            {"steps": 2 * STEPS, **training},
            round=round_of(BASE, 2 * PROMPTS, draws),
        ),
        first: Run(
            f"DPO, the first round{said}", "dpo", {"steps": STEPS, **training}, round=round_of(BASE, PROMPTS, draws)
        ),
        second: Run(
            f"DPO, two rounds{said}", "dpo", {"steps": STEPS, **training}, round=round_of(first, PROMPTS, draws + 1)
        ),
    }


ROUND_RUNS: dict[str, Run] = {name: run for seed in range(3) for name, run in runs(seed).items()}
ROUND_SEEDS = {f"{name}_seeds": tuple(named(name, seed) for seed in range(3)) for name in NAMES}
ROUND_GROUPS = (
    Group(
        "rounds",
        "Offline against two rounds of the policy's own images, at equal labels and steps",
        tuple(ROUND_RUNS),
        (
            Claim(
                "A second round of the policy's own images improves it",
                "Guo et al. 2024, arXiv 2402.04792; Xiong et al. 2024, arXiv 2312.11456, of language models",
                (beats("round_1_seeds", BASE), beats("round_2_seeds", "round_1_seeds")),
            ),
            Claim(
                "Labels asked in rounds train better than as many asked at once",
                "the same",
                (beats("round_2_seeds", "at_once_seeds"),),
            ),
        ),
        extra=True,
    ),
)
"""The groups that only `--only` makes."""
