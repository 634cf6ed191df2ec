"""The report's section on training: each trained policy's curves, probes, alarms and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffalign.config.rollout import Rolled
from diffalign.config.training import Trained
from diffalign.config.values import Model
from diffalign.core import records
from diffalign.data.batches import curated_file
from diffalign.monitoring.curve import points
from diffalign.reporting import own_pictures, panels, thumbnails
from diffalign.reporting.material import POLICIES, Material

LABELS = {"beta": "β"}
"""Names of a method's keys, where they are others than in params.yaml."""


def context(report: Material) -> dict[str, Any]:
    """Returns the panels, alarms and pictures of each trained policy."""
    trained = report.roles.trained
    limit = thumbnails.share(thumbnails.STRIPS, len(trained) * panels.PICTURES)
    return {"curves": [of_policy(report, name, limit) for name in trained]}


def of_policy(report: Material, name: str, limit: int) -> dict[str, Any]:
    """Returns what is shown of one training; a picture has at most `limit` bytes."""
    policy, lines, thresholds = report.settings.policies[name], report.curves[name], report.settings.thresholds
    assert isinstance(policy, Trained)
    probes = points(lines)
    learnt_from = "pictures" if isinstance(policy, Rolled) else "pairs"
    return {
        "policy": name,
        "about": about(policy),
        "curated": told(POLICIES / name / curated_file.FILE),
        "own": own_pictures.context(name, policy, lines),
        "panels": panels.curve_panels(lines, learnt_from) + panels.gradient_panel(lines),
        "probes": panels.probe_panels(probes),
        "alarms": panels.raised(probes, thresholds),
        "quiet": "No alarm was raised." if probes else "No probe was made, so nothing looked for alarms.",
        "chosen": panels.chosen(policy.choose, probes, thresholds),
        "pictures": panels.pictures(POLICIES / name / "probe", limit),
    }


def told(file: Path) -> str:
    """Says which images a policy with `curate` was trained on, in a line; empty for others, which have no list."""
    if not file.exists():
        return ""
    found = records.read(file, curated_file.Curated, f"train@{file.parent.name}")
    return f"{found.told().capitalize()}. The list, with each image's prompt, score and rank, is {file}."


def about(policy: Trained) -> str:
    """Says a trained policy's main parameters in a line: the method's title, what all have, what the method adds."""
    parts = [policy.title, policy.adapter, f"{policy.steps:,} steps, batch {policy.batch_size}", f"lr {policy.lr:g}"]
    own = {LABELS.get(key, key.replace("_", " ")): value for key, value in policy.of_method().items()}
    parts += [f"{key} {text(value)}" for key, value in own.items() if value is not None]
    low, high = policy.timesteps
    parts += [f"timesteps {low:.0%} to {high:.0%} of the schedule"] if (low, high) != (0, 1) else []
    parts += ["labels swapped: a control that must lose"] if policy.swap_labels else []
    return ", ".join(parts)


def text(value: object) -> str:
    """Returns a parameter's value for reading."""
    if isinstance(value, Model):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return " ".join(f"{key} {text(inner)}" for key, inner in value.items() if inner is not None)
    return f"{value:g}" if isinstance(value, float) else str(value)
