"""The report's section on cost: the work that each policy took, in counts, so that equal runs give equal pages."""

from typing import Any

from diffalign.config.training import Trained
from diffalign.generation import gallery
from diffalign.reporting.material import Material
from diffalign.reporting.policy_file import PolicyWork


def context(report: Material) -> dict[str, Any]:
    """Returns the work of each training, and of making and judging the images."""
    return {
        "trained": [of_training(report, name) for name in report.roles.trained],
        "images": [of_images(report, name) for name in report.galleries],
        "judges": len(report.settings.rewards),
    }


def of_training(report: Material, name: str) -> dict[str, Any]:
    """Returns what one training took: comparisons seen, how often each, by which machine."""
    policy, work = report.settings.policies[name], report.work[name]
    assert isinstance(policy, Trained)
    seen = policy.steps * policy.batch_size
    return {
        "policy": name,
        "steps": f"{policy.steps:,}",
        "batch": f"{policy.batch_size:,}",
        "seen": f"{seen:,}",
        "distinct": "–" if work.pairs is None else f"{work.pairs:,}",
        "often": f"{seen / work.pairs:.1f}" if work.pairs else "–",
        "reference": policy.reference,
        "machine": machine(work),
    }


def machine(work: PolicyWork) -> str:
    """Names the machine of a training, or the machines where it went on on another."""
    told = []
    for one in work.environments:
        device = one.gpu or f"{one.threads} CPU threads"
        told.append(f"{one.processes} × {device}, {one.precision}" + (", compiled" if one.compiled else ""))
    return ", then ".join(dict.fromkeys(told)) or "–"


def of_images(report: Material, name: str) -> dict[str, Any]:
    """Returns how many images were made of a policy, and the network's forwards that they took."""
    found = report.galleries[name]
    count, forwards = len(found.entries), gallery.forwards(found.made)
    return {
        "policy": name,
        "images": f"{count:,}",
        "forwards": f"{forwards:,}",
        "all": f"{count * forwards:,}",
    }
