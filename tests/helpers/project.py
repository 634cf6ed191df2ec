"""A small project folder for tests: a random model, synthetic comparisons, params, and the real stages run in it."""

from pathlib import Path
from typing import Any

import yaml

from diffalign.config.load import parse
from diffalign.config.params import Params
from tests.helpers import pickapic
from tests.helpers.tiny import make_model

REPO = Path(__file__).resolve().parents[2]


def make_params(folder: Path, policies: dict[str, Any], **changes: dict[str, Any]) -> Params:
    """The default params.yaml with small sizes, the given policies, and `section={key: value}` changes;
    the section `rewards` is replaced.

    A policy is given as changes to the default's policy of the same method.
    """
    raw = yaml.safe_load((REPO / "params.yaml").read_text())
    defaults = {policy["method"]: policy for policy in raw["policies"].values()}
    defaults["mapo"] = {k: v for k, v in defaults["dpo"].items() if k not in ("link", "safeguard")}
    defaults["kto"] = defaults["mapo"] | {"desirable_share": 0.8}
    raw["policies"] = {
        name: {**defaults[policy["method"]], **SMALL.get(policy["method"], {}), "init": "model", **policy}
        for name, policy in policies.items()
    }
    raw["data"]["path"] = "raw"
    raw["model"]["path"] = "model"
    raw["precompute"] |= {"shard_size": 8, "batch_size": 4}
    raw["reference"] |= {"init": "model", "batch_size": 4}
    raw["generate"] |= {"prompts": 4, "steps": 2}
    raw["probe"] |= {"every": 0}
    raw["evaluate"] |= {"bootstrap": 100, "draws": 2}
    for section, values in changes.items():
        raw[section] = values if section == "rewards" else raw[section] | values
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    return parse(raw)


TRAINED = {
    "adapter": "full",
    "steps": 8,
    "batch_size": 8,
    "micro_batch_size": 4,
    "checkpoint_every": 2,
    "log_every": 1,
    "warmup_steps": 2,
    "lr": 1e-3,
    "max_skips": 3,
}
SMALL: dict[str, dict[str, Any]] = dict.fromkeys(("dpo", "kto", "mapo", "sft"), TRAINED)


def make_inputs(folder: Path, rows: int = 30) -> None:
    """Writes model/ and raw/ into the project folder; a third as many rows are held out for the test."""
    make_model(folder / "model")
    pickapic.write(folder / "raw" / "train-00000-of-00001.parquet", pickapic.rows(rows))
    pickapic.write(folder / "raw" / "test_unique-00000-of-00001.parquet", pickapic.rows(rows // 3, start=rows))
