"""The study's runs on rewards: the methods that learn from their own pictures, on the shapes world.

They're made where `--only rewards` (or another of these groups) asks: together they take hours.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from studies.claims import BASE, Claim, Wins, beats
from studies.groups import Group, Run, named

REWARD_MODEL = "models/rewards/learned"
"""The reward model that the stage reward@learned trains; the proxy of runs that need a gradient."""
ORACLE: Mapping[str, Any] = {"oracle": {"weight": 1.0}}
PROXY: Mapping[str, Any] = {"learned": {"weight": 1.0, "path": REWARD_MODEL, "batch_size": 64}}
NO_PAIRS = ("beta", "link", "safeguard")
"""Keys of `dpo` that methods on own pictures don't have."""
NOISY = {"name": "ddim", "eta": 1.0, "spacing": "trailing"}
PLAIN = {"name": "ddim", "eta": 0.0, "spacing": "trailing"}
"""Trailing: with leading, the last step is at t = 1, where the network has next to no say."""
FAST = {"name": "dpmpp_2m", "spacing": "trailing"}
PLAIN_KL = {"weight": 0.0, "space": "output"}
CHEAP = {"reference": "none", "warmup_steps": 5, "timesteps": [0.0, 1.0]}
LOOKS = {"every": 10, "pairs": 20, "draws": 2, "images": 32, "image_steps": 10}
"""All runs are looked at alike while they train: what the judge says of images for held-out prompts."""


def rolled(sampler: Mapping[str, Any], steps: int, per_prompt: int, guidance: float = 4.0) -> dict[str, Any]:
    """Returns the section `rollout` of a run, with one update a rollout."""
    return {
        "sampler": dict(sampler),
        "steps": steps,
        "guidance": guidance,
        "images_per_prompt": per_prompt,
        "updates": 1,
        "shared_noise": False,
    }


MOVES: dict[str, Any] = {
    **CHEAP,
    "method": "grpo",
    "lr": 1.0e-4,
    "steps": 50,
    "batch_size": 32,
    "reward": ORACLE,
    "rollout": rolled(NOISY, 10, 4) | {"updates": 2},
    "advantage": {"kind": "group", "clip": 5.0},
    "moves": {"share": 0.5, "span": [0.0, 0.8]},
    "trust": "clip",
    "clip": 4.0e-4,
    "kl": PLAIN_KL,
    "train_unconditional": True,
}
"""A policy gradient by 32 pictures a step."""
GRADIENT: dict[str, Any] = {
    **CHEAP,
    "method": "draft",
    "lr": 1.0e-4,
    "steps": 50,
    "batch_size": 16,
    "micro_batch_size": 16,
    "reward": PROXY,
    "rollout": rolled(PLAIN, 10, 1),
    "gradient": {"steps": 1, "through": "exact", "sees": "end", "renoise": 2},
    "hinge": None,
    "kl": PLAIN_KL,
    "train_unconditional": True,
}
"""A reward's gradient by 16 pictures a step; DRaFT-LV."""
NFT: dict[str, Any] = {
    **CHEAP,
    "method": "nft",
    "reference": "live",
    "lr": 1.0e-4,
    "steps": 60,
    "batch_size": 32,
    "reward": ORACLE,
    "rollout": rolled(FAST, 10, 8, guidance=1.0),
    "advantage": {"kind": "group_mean", "clip": 5.0},
    "strength": 1.0,
    "old": {"start": 0, "rate": 0.01, "most": 0.5},
    "kl": {"weight": 0.05, "space": "output"},
    "timesteps": [0.5, 1.0],  # with all of them it collapses after 65 steps (docs/methods/nft.md)
    "stratified": True,
    "draws": 2,
}
COMPARED: dict[str, Any] = {
    **CHEAP,
    "lr": 1.0e-4,
    "steps": 60,
    "batch_size": 32,
    "reward": ORACLE,
    "rollout": rolled(FAST, 10, 4),
    "draws": 4,
}
GENERATIONS = rolled(FAST, 10, 4) | {"updates": 20}
"""RAFT's pictures: three generations of 640. With a new one every step it feeds on itself (docs/methods/raft.md)."""
DOODL: dict[str, Any] = {
    "reward": "learned",
    "iterations": 5,  # (3 * 5 + 1) plain images' forwards
    "lr": 1.0,
    "momentum": 0.9,
    "clip": 0.1,
    "noise": 0.0,
    "keep": "best",
    "coupled": None,
}


def on_rewards(label: str, values: Mapping[str, Any], **changes: Any) -> Run:
    """Returns a run on own pictures: `values` with changes."""
    return Run(label, "dpo", {**values, **changes}, NO_PAIRS, probe=LOOKS)


def last_steps(count: int, through: str = "exact") -> dict[str, Any]:
    """Returns DRaFT-K's `gradient`."""
    return {"steps": count, "through": through, "sees": "end", "renoise": 0}


def with_kl(weight: float) -> dict[str, Any]:
    """Returns the keys of a pull to the reference."""
    return {"reference": "live", "kl": {"weight": weight, "space": "output"}}


def curated(share: float) -> Run:
    """Returns fine-tuning on the top share of images by votes."""
    return Run(
        f"SFT, top {share:.0%}", "sft", {"curate": {"by": "votes", "keep": share, "per_prompt": None, "least": None}}
    )


LIVE_DPO = {"reference": "live", "beta": 1000, "link": "sigmoid"}
LONG_REFL: Mapping[str, Any] = {"method": "refl", "gradient": {"stop": [0.75, 1.0]}, "steps": 150}
VALUE = {"width": 64, "lr": 1.0e-3, "steps": 5}
SEEDED: dict[str, Run] = {
    "ddpo": on_rewards("DDPO, oracle", MOVES, method="ddpo", advantage={"kind": "batch", "clip": 5.0}),
    "grpo": on_rewards("GRPO, oracle", MOVES),
    "dpok": on_rewards("DPOK, oracle", MOVES | with_kl(0.1), method="dpok", value=VALUE),
    "nft": replace(
        on_rewards("NFT, oracle, no guidance", NFT), sampling={"guidance": 1.0}, probe={**LOOKS, "guidance": 1.0}
    ),
    "online_dpo": on_rewards(
        "Online DPO, oracle", COMPARED, method="online_dpo", reference="live", beta=1000, link="sigmoid"
    ),
    "raft": on_rewards("RAFT, oracle", COMPARED, method="raft", rollout=GENERATIONS, timesteps=[0.4, 1.0]),
    "draft_lv": on_rewards("DRaFT-LV, proxy", GRADIENT),
    "alignprop": on_rewards(
        "AlignProp, proxy", GRADIENT, method="alignprop", gradient={"steps": [1, 10], "through": "exact", "sees": "end"}
    ),
    "refl": on_rewards("ReFL, proxy", GRADIENT, method="refl", gradient={"stop": [0.75, 1.0]}),
    "grpo_placebo": on_rewards("GRPO, a reward by chance", MOVES, reward={"placebo": {"weight": 1.0}}),
    "ddpo_proxy": on_rewards("DDPO, proxy", MOVES, method="ddpo", reward=PROXY),
    "refl_long": on_rewards("ReFL, proxy, long", GRADIENT, **LONG_REFL),
    "refl_long_kl": on_rewards("ReFL, proxy, long, KL", GRADIENT | with_kl(1.0), **LONG_REFL),
    "draft_1": on_rewards("DRaFT-1, proxy", GRADIENT, gradient=last_steps(1)),
    "draft_5": on_rewards("DRaFT-5, proxy", GRADIENT, gradient=last_steps(5)),
    "draft_5_straight": on_rewards("DRaFT-5 straight, proxy", GRADIENT, gradient=last_steps(5, "straight")),
    "draft_all": on_rewards("DRaFT, all steps, proxy", GRADIENT, gradient=last_steps(10)),
    "drtune": on_rewards("DRTune, proxy", GRADIENT, method="drtune", gradient={"steps": 3, "stop": [0.6, 1.0]}),
    "dpok_loose": on_rewards("DPOK, KL 0.01", MOVES | with_kl(0.01), method="dpok", value=VALUE),
    "dpok_tied": on_rewards("DPOK, KL 1", MOVES | with_kl(1.0), method="dpok", value=VALUE),
    **{f"sft_top_{round(100 * share)}": curated(share) for share in (1.0, 0.3, 0.1, 0.03)},
}
"""Runs that are made with three seeds of training each."""
REWARD_RUNS: dict[str, Run] = {
    **SEEDED,
    **{
        named(name, seed): replace(run, label=f"{run.label}, seed {seed}", changes={**run.changes, "seed": seed})
        for name, run in SEEDED.items()
        for seed in (1, 2)
    },
    "grpo_negated": on_rewards("GRPO, oracle negated", MOVES, reward={"oracle": {"weight": -1.0}}),
    "grpo_still": on_rewards("GRPO, lr 1e-30", MOVES, lr=1.0e-30, steps=6),
    "doodl": Run("DOODL, proxy", "base", sampling={"optimise": DOODL}),
    "best_of_16": Run("The best of 16, proxy", "base", sampling={"best_of": {"reward": "learned", "n": 16}}),
}

REWARD_SEEDS: dict[str, tuple[str, ...]] = {
    f"{name}_seeds": tuple(named(name, seed) for seed in range(3)) for name in SEEDED
}
PAIR_SEEDS: dict[str, tuple[str, ...]] = {
    "dpo_seeds": ("dpo", "seed_1", "seed_2"),
    "sft_seeds": ("sft", "sft_seed_1", "sft_seed_2"),
}
"""Those of the runs on the raters' pairs."""


def seeds_of(*names: str) -> tuple[str, ...]:
    """Returns runs with their seeds: the first of all, then the second."""
    families = {**REWARD_SEEDS, **PAIR_SEEDS}
    return tuple(name for seed in zip(*(families[f"{name}_seeds"] for name in names), strict=True) for name in seed)


REWARD_GROUPS = (
    Group(
        "rewards",
        "Learning from rewards of own pictures, three seeds",
        seeds_of("ddpo", "grpo", "dpok", "nft", "online_dpo", "raft", "draft_lv", "alignprop", "refl"),
        (
            Claim(
                "Policy gradients raise a reward without a gradient (here the oracle, which judges too)",
                "DDPO, arXiv 2305.13301; Flow-GRPO, arXiv 2505.05470; DPOK, arXiv 2305.16381",
                tuple(beats(f"{name}_seeds", BASE) for name in ("ddpo", "grpo", "dpok")),
            ),
            Claim(
                "The forward process does it better at equal time",
                "DiffusionNFT, arXiv 2509.16117",
                (beats("nft_seeds", BASE), beats("nft_seeds", "grpo_seeds")),
            ),
            Claim(
                "Own pictures compared by a reward train as well as people's pairs",
                "RAFT, arXiv 2304.06767; online DPO",
                (beats("online_dpo_seeds", BASE), beats("raft_seeds", BASE)),
            ),
            Claim(
                "What a learned reward's gradient teaches is seen by another judge, too",
                "DRaFT, arXiv 2309.17400; AlignProp, arXiv 2310.03739; ReFL, arXiv 2304.05977",
                tuple(beats(f"{name}_seeds", BASE) for name in ("draft_lv", "alignprop", "refl")),
            ),
            Claim(
                "It needs fewer pictures than DDPO: with half of them, and from a model of the oracle, it is ahead",
                "AlignProp, arXiv 2310.03739; DRaFT, arXiv 2309.17400",
                (beats("alignprop_seeds", "ddpo_seeds"), beats("draft_lv_seeds", "ddpo_seeds")),
            ),
        ),
        extra=True,
    ),
    Group(
        "reward_controls",
        "Controls: a negated reward, one by chance, no learning rate",
        (*seeds_of("grpo", "grpo_placebo"), "grpo_negated", "grpo_still"),
        (
            Claim(
                "A negated reward makes images worse, one by chance changes little, no learning rate changes nothing",
                "this project's controls",
                (
                    Wins("grpo_negated", BASE, 0.0, 0.4),
                    Wins("grpo_placebo_seeds", BASE, 0.4, 0.6),
                    Wins("grpo_still", BASE, 0.45, 0.55),
                ),
            ),
        ),
        extra=True,
    ),
    Group(
        "reward_hacking",
        "The proxy against the oracle, with and without a pull to the reference",
        seeds_of("refl", "refl_long", "refl_long_kl", "ddpo_proxy"),
        (
            Claim(
                "A reward model that is followed for long is exploited: another judge's score falls",
                "Gao et al., arXiv 2210.10760; DRaFT, arXiv 2309.17400",
                (beats("refl_seeds", "refl_long_seeds"),),
            ),
            Claim(
                "A pull to the reference keeps it from that",
                "DPOK, arXiv 2305.16381; Flow-GRPO",
                (beats("refl_long_kl_seeds", BASE), beats("refl_long_kl_seeds", "refl_long_seeds")),
            ),
        ),
        extra=True,
    ),
    Group(
        "reward_steps",
        "How many steps a reward's gradient goes through, and how",
        seeds_of("draft_1", "draft_lv", "draft_5", "draft_5_straight", "draft_all", "alignprop", "drtune"),
        (
            Claim(
                "Few last steps are as good as all",
                "DRaFT, arXiv 2309.17400",
                (beats("draft_lv_seeds", "draft_all_seeds"),),
            ),
            Claim(
                "A random number of steps is better than the last alone",
                "AlignProp, arXiv 2310.03739",
                (beats("alignprop_seeds", "draft_1_seeds"),),
            ),
        ),
        extra=True,
    ),
    Group(
        "reward_kl",
        "Reward against the distance to the reference",
        seeds_of("ddpo", "dpok_loose", "dpok", "dpok_tied", "dpo", "sft"),
        (Claim("A pull costs reward", "DPOK, arXiv 2305.16381", (beats("dpok_seeds", "dpok_tied_seeds"),)),),
        extra=True,
    ),
    Group(
        "doodl",
        "One image's noise along a reward's gradient, against the best of as many as it costs",
        ("doodl", "best_of_16"),
        (
            Claim(
                "The gradient raises the reward more than choice at equal forwards, and so it is by another judge",
                "DOODL, arXiv 2303.13703",
                (beats("doodl", BASE), beats("doodl", "best_of_16")),
            ),
        ),
        extra=True,
    ),
    Group(
        "curated",
        "Fine-tuning on curated images: the share kept, by votes",
        seeds_of("sft", "sft_top_100", "sft_top_30", "sft_top_10", "sft_top_3"),
        (
            Claim(
                "Few of the best images are better than many",
                "Emu, arXiv 2309.15807",
                (beats("sft_top_10_seeds", "sft_top_100_seeds"), beats("sft_top_10_seeds", BASE)),
            ),
        ),
        extra=True,
    ),
)
"""The groups that only `--only` makes."""
