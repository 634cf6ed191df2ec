"""Notes what images depend on through a reward: DVC then runs again what followed that reward, and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffalign.core import files

TRAINED = Path("metrics/rewards")


def noted(reward: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a reward's name and settings, and the hash of what reward@NAME last trained of it; None untrained."""
    trained = TRAINED / f"{Path(settings.get('path', '')).name}.json"
    weights = files.sha256_file(trained) if trained.is_file() else None
    return {"reward": reward, "settings": dict(settings), "trained": weights}
