"""A small project folder for tests: a random model, synthetic comparisons, params, and the real stages run in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffalign.config.load import parse
from diffalign.config.params import Params
from diffalign.core import yaml_file
from tests.helpers import pickapic
from tests.helpers.tiny import make_model

REPO = Path(__file__).resolve().parents[2]


def make_params(folder: Path, policies: dict[str, Any], **changes: dict[str, Any]) -> Params:
    """The default params.yaml with small sizes, the given policies, and `section={key: value}` changes;
    the sections `rewards` and `reward_models` are replaced; the oracle judges, and there are no reward models.

    A policy is given as its method and what differs from METHODS and SMALL.
    """
    raw = yaml_file.read(REPO / "params.yaml")
    raw["training"] |= SMALL
    raw["runtime"] |= {"log_every": 1, "checkpoint_every": 2}
    raw["policies"] = {
        name: {"init": "model", "noise_seed": 0, **METHODS[policy["method"]], **policy}
        for name, policy in policies.items()
    }
    raw["data"]["path"] = "raw"
    raw["model"]["path"] = "model"
    raw["precompute"] |= {"shard_size": 8, "batch_size": 4}
    raw["reference"] |= {"init": "model", "batch_size": 4, **DRAWN}
    raw["generate"] |= {"prompts": 4, "steps": 2}
    raw["probe"] |= {"every": 0, **LIMITS}
    raw["evaluate"] |= {"bootstrap": 100, "draws": 2}
    raw |= {"reward_models": {}, "rewards": {"oracle": {}}}
    for section, values in changes.items():
        raw[section] = values if section in ("rewards", "reward_models") else raw[section] | values
    if "oracle" not in raw["rewards"]:
        unjudged(raw, changes)
    if raw["model"]["family"] == "sd3" and not raw["generate"]["sampler"]["name"].startswith("flow_"):
        raw["generate"]["sampler"] = {"name": "flow_euler"}
    (folder / "params.yaml").write_text(yaml_file.dump(raw), "utf-8")
    return parse(raw)


def unjudged(raw: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Takes the oracle out of where the default params name it, but for sections that a test gives itself."""
    if "evaluate" not in given:
        raw["evaluate"]["alarms"]["held_out"] = []
    if "gate" not in given:
        raw["gate"]["conditions"] = [
            one | ({"judge": "held_out"} if one["figure"] == "win_rate" else {}) for one in raw["gate"]["conditions"]
        ]


DRAWN: dict[str, Any] = {"timesteps": [0.4, 1.0], "prompt_drop": 0.1}
"""Of `reference` and `training`, in a test's project, whatever suits the default's world best."""
SMALL = {"steps": 8, "batch_size": 8, "micro_batch_size": 4, "warmup_steps": 2, "lr": 1e-3, "max_skips": 3, **DRAWN}
"""Of `training`, in a test's project."""
LIMITS = {"winner_worse": 0.4, "saturation": 0.02}
"""Of `probe`, in a test's project."""
MOVES: dict[str, Any] = {
    "rollout": {
        "sampler": {"name": "ddim", "eta": 1.0, "spacing": "leading"},
        "steps": 4,
        "guidance": 2.0,
        "images_per_prompt": 2,
        "updates": 2,
        "shared_noise": False,
    },
    "reward": {"jpeg_compressibility": {"weight": 1.0}},
    "advantage": {"kind": "batch", "clip": 5.0},
    "moves": {"share": 0.5, "span": [0.0, 1.0]},
    "trust": "clip",
    "clip": 1e-3,
    "kl": {"weight": 0.0, "space": "output"},
    "train_unconditional": True,
}
"""Of a policy gradient, in a test's project."""
GRADIENT: dict[str, Any] = {
    "rollout": MOVES["rollout"] | {"sampler": {"name": "ddim", "eta": 0.0, "spacing": "leading"}, "updates": 1},
    "reward": {"learned": {"weight": 1.0, "path": "judge", "batch_size": 4}},
    "hinge": None,
    "kl": {"weight": 0.0, "space": "output"},
    "train_unconditional": True,
}
"""Of a reward gradient, in a test's project; `rollouts.rewards_from` must be `judge` then."""
OWN: dict[str, Any] = {
    "rollout": {
        "sampler": {"name": "dpmpp_2m", "spacing": "trailing"},
        "steps": 4,
        "guidance": 2.0,
        "images_per_prompt": 2,
        "updates": 1,
        "shared_noise": False,
    },
    "reward": {"jpeg_compressibility": {"weight": 1.0}},
    "draws": 2,
}
"""Of methods that learn from their finished pictures."""
METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "dpo": {"beta": 1000, "link": "sigmoid", "safeguard": None},
    "kto": {"beta": 1000, "desirable_share": 0.8},
    "mapo": {"beta": 1000},
    "sft": {"curate": None},
    "draft": GRADIENT | {"gradient": {"steps": 1, "through": "exact", "sees": "end", "renoise": 0}},
    "alignprop": GRADIENT | {"gradient": {"steps": [1, 4], "through": "exact", "sees": "end"}},
    "refl": GRADIENT | {"gradient": {"stop": [0.5, 1.0]}},
    "drtune": GRADIENT | {"gradient": {"steps": 2, "stop": [0.5, 1.0]}},
    "ddpo": MOVES,
    "nft": OWN
    | {
        "rollout": OWN["rollout"] | {"guidance": 1.0},
        "prompt_drop": 0.0,
        "advantage": {"kind": "group_mean", "clip": 5.0},
        "strength": 1.0,
        "old": {"start": 0, "rate": 0.1, "most": 0.5},
        "kl": {"weight": 1e-4, "space": "output"},
    },
    "online_dpo": OWN | {"beta": 1000, "link": "sigmoid"},
    "raft": OWN,
    "grpo": MOVES | {"advantage": {"kind": "group", "clip": 5.0}},
    "dpok": MOVES | {"kl": {"weight": 0.1, "space": "output"}, "value": {"width": 16, "lr": 1e-3, "steps": 3}},
}
"""The methods' own keys, where a test doesn't say others."""


def make_inputs(folder: Path, rows: int = 30) -> None:
    """Writes model/ and raw/ into the project folder; a third as many rows are held out for the test."""
    make_model(folder / "model")
    pickapic.write(folder / "raw" / "train-00000-of-00001.parquet", pickapic.rows(rows))
    pickapic.write(folder / "raw" / "test_unique-00000-of-00001.parquet", pickapic.rows(rows // 3, start=rows))
