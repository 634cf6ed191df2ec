"""The study of the papers' findings on the shapes world: its runs, and its claims. A new claim or run goes here.

A run is an entry of RUNS: a policy of params.yaml with some values changed. A claim is an entry of a Group in STUDY:
its words, its source, and lines such as `beats("dpo", BASE)`. `runner.py` makes the runs, `claims.py` the verdicts.
"""

from collections.abc import Sequence

from studies.claims import BASE, CLOSE, AlarmsTell, Claim, Wins, beats, near
from studies.groups import Asked, Group, Run
from studies.rewards_world import PAIR_SEEDS, REWARD_GROUPS, REWARD_RUNS, REWARD_SEEDS
from studies.rounds_world import ROUND_GROUPS, ROUND_RUNS, ROUND_SEEDS

MAKERS: dict[Asked, str] = {"weaker": "tiny-sd-weaker", "own": "tiny-sd", "stronger": "tiny-sd-stronger"}
"""The model whose images are compared, as the comparisons name it."""

DPO_PAPER = "Wallace et al. 2023, arXiv 2311.12908"
TRIAL = "an earlier trial of this project's, 200 steps in a smaller world"
NO_LINK = ("link", "safeguard")

RUNS: dict[str, Run] = {
    "dpo": Run("DPO", "dpo"),
    "sft": Run("SFT", "sft"),
    "dpo_weaker": Run("DPO, weaker models' images", "dpo", asked="weaker"),
    "sft_weaker": Run("SFT, weaker models' images", "sft", asked="weaker"),
    "dpo_own": Run("DPO, its own images", "dpo", asked="own"),
    "sft_own": Run("SFT, its own images", "sft", asked="own"),
    "dpo_stronger": Run("DPO, stronger models' images", "dpo", asked="stronger"),
    "sft_stronger": Run("SFT, stronger models' images", "sft", asked="stronger"),
    "oracle_labels": Run("DPO, the scorer's labels", "dpo", asked="oracle"),
    "beta_10": Run("β 10", "dpo", {"beta": 10}),
    "beta_10_chosen": Run("β 10, the probe's step", "dpo", {"beta": 10, "choose": "probe"}),
    "beta_100": Run("β 100", "dpo", {"beta": 100}),
    "beta_10000": Run("β 10,000", "dpo", {"beta": 10000}),
    "beta_100000": Run("β 100,000", "dpo", {"beta": 100000}),
    "hinge": Run("DPO, hinge", "dpo", {"link": "hinge"}),
    "ipo": Run("IPO", "dpo", {"link": "ipo"}),
    "safeguard": Run("SDPO, μ 0.9", "dpo", {"safeguard": 0.9}),
    "mapo": Run("MaPO", "dpo", {"method": "mapo", "beta": 0.1}, NO_LINK),
    "kto": Run("KTO", "dpo", {"method": "kto", "desirable_share": 0.8}, NO_LINK),
    "seed_1": Run("DPO, seed 1", "dpo", {"seed": 1}),
    "seed_2": Run("DPO, seed 2", "dpo", {"seed": 2}),
    "sft_seed_1": Run("SFT, seed 1", "sft", {"seed": 1}),
    "sft_seed_2": Run("SFT, seed 2", "sft", {"seed": 2}),
    "all_timesteps": Run("DPO, all timesteps", "dpo", {"timesteps": [0.0, 1.0]}),
    "slow": Run("DPO, β 2,000, lr 1e-5", "dpo", {"beta": 2000, "lr": 1e-5}),
    "fast": Run("DPO, β 2,000, lr 1e-4", "dpo", {"beta": 2000, "lr": 1e-4}),
    "fast_loose": Run("DPO, β 500, lr 1e-4", "dpo", {"beta": 500, "lr": 1e-4}),
    "too_fast": Run("DPO, β 2,000, lr 3e-4", "dpo", {"beta": 2000, "lr": 3e-4}),
    "too_fast_loose": Run("DPO, β 500, lr 3e-4", "dpo", {"beta": 500, "lr": 3e-4}),
    "sft_fast": Run("SFT, lr 1e-4", "sft", {"lr": 1e-4}),
    "medium": Run("DPO, β 2,000, lr 3e-5", "dpo", {"beta": 2000, "lr": 3e-5}),
    "medium_tied": Run("DPO, β 5,000, lr 3e-5", "dpo", {"beta": 5000, "lr": 3e-5}),
    "sft_medium": Run("SFT, lr 3e-5", "sft", {"lr": 3e-5}),
    **REWARD_RUNS,
    **ROUND_RUNS,
}

SEEDS: dict[str, tuple[str, ...]] = {
    **PAIR_SEEDS,
    **REWARD_SEEDS,
    **ROUND_SEEDS,
}
"""Runs that differ in their seed only, of training, and of their rounds. A claim may name them together: seeds are in
its interval then."""

STUDY = (
    Group(
        "methods",
        "DPO, fine-tuning on winners, and the base",
        ("dpo", "sft"),
        (
            Claim("Diffusion-DPO beats the model that it started from", DPO_PAPER, (beats("dpo", BASE),)),
            Claim(
                "It also beats fine-tuning on the winners, which improves SD 1.5 (55.5%) and harms SDXL",
                DPO_PAPER,
                (beats("dpo", "sft"),),
            ),
        ),
    ),
    Group(
        "sources",
        "Whose images were compared: a weaker model's, its own, a stronger one's",
        ("dpo_weaker", "sft_weaker", "dpo_own", "sft_own", "dpo_stronger", "sft_stronger"),
        (
            Claim(
                "From a weaker model's images fine-tuning on winners harms, and DPO improves (SDXL's case in print)",
                DPO_PAPER,
                (beats("dpo_weaker", BASE), beats(BASE, "sft_weaker"), beats("dpo_weaker", "sft_weaker")),
            ),
            Claim(
                "From a stronger one's images fine-tuning improves, and DPO improves more (SD 1.5's case)",
                DPO_PAPER,
                (beats("sft_stronger", BASE), beats("dpo_stronger", "sft_stronger")),
            ),
            Claim(
                "From its own images the two can't be told apart",
                "this project, of an earlier default",
                (near("dpo_own", "sft_own"),),
            ),
        ),
    ),
    Group(
        "seeds",
        "Three training seeds",
        ("dpo", "seed_1", "seed_2", "sft", "sft_seed_1", "sft_seed_2"),
        (
            Claim(
                "Over three seeds, seeds in the interval, DPO beats the base, and fine-tuning on the winners",
                DPO_PAPER,
                (beats("dpo_seeds", BASE), beats("dpo_seeds", "sft_seeds")),
            ),
            Claim(
                "What DPO wins over the base doesn't hang on the seed of training",
                "taken for granted in print: one seed is trained",
                (beats("dpo", BASE), beats("seed_1", BASE), beats("seed_2", BASE)),
            ),
            Claim(
                f"Seeds are within {100 * CLOSE:.0f} points of each other, head to head",
                "this project",
                (near("seed_1", "dpo"), near("seed_2", "dpo")),
            ),
        ),
    ),
    Group(
        "beta",
        "β, the tie to the reference",
        ("beta_10", "beta_10_chosen", "beta_100", "dpo", "beta_10000", "beta_100000"),
        (
            Claim(
                "Too low a β collapses: images become worse than the base's",
                DPO_PAPER,
                (beats(BASE, "beta_10"), beats("dpo", "beta_10")),
            ),
            Claim(
                "The step that the probe chooses there, the best before the alarm, is better than the last one",
                "this project",
                (beats("beta_10_chosen", "beta_10"), beats("beta_10_chosen", BASE)),
            ),
            Claim(
                "Too high a β keeps the policy at the base",
                DPO_PAPER,
                (near("beta_100000", BASE), beats("dpo", "beta_100000")),
            ),
        ),
    ),
    Group(
        "feedback",
        "AI feedback: a scorer's labels instead of the raters'",
        ("dpo", "oracle_labels"),
        (
            Claim(
                "A scorer's labels train as well as people's, or better (PickScore's: 63.3% against 59.8%, SD 1.5). "
                "Here the scorer is the judge too, and the raters' answers were drawn from it: an easy case",
                DPO_PAPER,
                (beats("oracle_labels", BASE), Wins("oracle_labels", "dpo", 0.5 - CLOSE, 1.0)),
            ),
        ),
    ),
    Group(
        "objectives",
        "Each objective, at equal steps",
        ("dpo", "hinge", "ipo", "safeguard", "mapo", "kto", "sft"),
        (
            Claim(
                "Each improves the base",
                "each objective's paper",
                tuple(beats(name, BASE) for name in ("dpo", "hinge", "ipo", "safeguard", "mapo", "kto", "sft")),
            ),
            Claim(
                "Keeping the winner's descent improves DPO",
                "Diffusion-SDPO, arXiv 2511.03317",
                (beats("safeguard", "dpo"),),
            ),
            Claim(
                "Preferences without a reference beat DPO (on SDXL)",
                "MaPO, arXiv 2406.06424",
                (beats("mapo", "dpo"),),
            ),
            Claim(
                "Images by themselves, each good or bad, train better than pairs (SD 1.5)",
                "Diffusion-KTO, arXiv 2404.04465",
                (beats("kto", "dpo"),),
            ),
        ),
    ),
    Group(
        "timesteps",
        "Which timesteps are trained",
        ("all_timesteps", "dpo"),
        (
            Claim(
                "On all timesteps, as in print, DPO beats the base",
                DPO_PAPER,
                (beats("all_timesteps", BASE),),
            ),
            Claim(
                "In this world the noisy part of the schedule does better than all of it",
                "this project's default",
                (beats("dpo", "all_timesteps"),),
            ),
        ),
    ),
    Group(
        "rates",
        "The learning rate: loss and accuracy don't tell",
        (
            "dpo",
            "slow",
            "medium",
            "medium_tied",
            "fast",
            "fast_loose",
            "too_fast",
            "too_fast_loose",
            "sft_medium",
            "sft_fast",
        ),
        (
            Claim(
                "A low rate beats the base, a high one makes its images worse",
                TRIAL,
                (beats("slow", BASE), beats(BASE, "fast"), beats(BASE, "fast_loose"), beats(BASE, "sft_fast")),
            ),
            Claim(
                "At three times that trial's high rate images become worse than the base's",
                "this project",
                (beats(BASE, "too_fast"), beats(BASE, "too_fast_loose")),
            ),
            Claim(
                "A probe of held-out draws tells while training, before an image is looked at",
                "this project, whose threshold was set on earlier runs like the default and the two fast ones",
                (AlarmsTell(("dpo", "slow"), ("fast", "fast_loose", "too_fast", "too_fast_loose", "sft_fast")),),
            ),
        ),
    ),
    *REWARD_GROUPS,
    *ROUND_GROUPS,
)


def labels() -> dict[str, str]:
    """Returns the label of each run, the base included."""
    families = {name: f"{RUNS[runs[0]].label}, {len(runs)} seeds," for name, runs in SEEDS.items()}
    return {name: run.label for name, run in RUNS.items()} | families | {BASE: "the base"}


def needed(groups: Sequence[Group]) -> list[str]:
    """Returns the runs of some groups, each once, in their order."""
    return list(dict.fromkeys(name for group in groups for name in group.runs))
