"""What the report shows of policies that learn from their own pictures."""

import re
from pathlib import Path

import pytest

from diffalign.config.rollout import Rolled
from diffalign.reporting import own_pictures
from diffalign.reporting.sections import training
from diffalign.runtime import timings
from tests.helpers.project import make_params

LINES = [{"step": s, "reward_jpeg_compressibility": s / 10, "reward_std": 0.5, "constant": 0.0} for s in (1, 5, 10)]


def titles(found: object) -> list[str]:
    assert isinstance(found, dict)
    return [panel["title"] for panel in found["panels"]]


def test_rewards_stand_over_pictures_and_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 8 pictures: the tenth step's reward stands at 80; at 4 pictures a second at 20 s."""
    monkeypatch.chdir(tmp_path)
    policies = {"base": {"method": "none"}, "dpo": {"method": "dpo"}, "ddpo": {"method": "ddpo"}}
    values = make_params(tmp_path, policies)
    policy = values.policies["ddpo"]
    assert isinstance(policy, Rolled)
    assert "rollout sampler name ddim eta 1 spacing leading steps 4 guidance 2" in training.about(policy)
    assert own_pictures.context("dpo", values.policies["dpo"], LINES) is None
    found = own_pictures.context("ddpo", policy, LINES)
    assert found and not found["seconds"]
    mean = "Reward jpeg_compressibility, mean over a rollout"
    rest = ["Spread of rewards, standard deviation", "Pictures whose group has one reward, share"]
    assert titles(found) == [mean, *rest]
    about = {"policy": policy.model_dump(mode="json") | {"init_fingerprint": "0"}}
    timings.record_rate("ddpo", 4.0, 0.0, 1, about)
    timings.record_rate("ddpo", 99.0, 0.0, 1, {"policy": about["policy"] | {"lr": 0.5}})
    found = own_pictures.context("ddpo", policy, LINES)
    assert found and found["seconds"] and titles(found) == [mean, mean, *rest]
    charts = [str(panel["svg"]) for panel in found["panels"]]
    names = ["pictures made", "seconds of training", "optimizer steps", "optimizer steps"]
    assert all(f">{name}</text>" in chart for name, chart in zip(names, charts, strict=True))
    last = [float(re.findall(r'y="194" text-anchor="middle">([\d.]+)<', chart)[-1]) for chart in charts]
    assert last[0] == 80 and last[1] == 20 and last[2] == 10
