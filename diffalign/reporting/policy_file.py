"""The schema of models/policies/NAME/policy.json as far as the report's cost knows it."""

from pathlib import Path

from pydantic import ConfigDict

from diffalign.core import records
from diffalign.core.records import Record


class Environment(Record):
    """What a training ran on, from a step on."""

    model_config = ConfigDict(extra="allow")
    gpu: str | None = None
    processes: int = 1
    threads: int | None = None
    precision: str = "fp32"
    compiled: bool | None = None


class PolicyWork(Record):
    """The fields that tell how much a training took; an old file may lack them."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)
    pairs: int | None = None
    """Distinct comparisons that it could draw."""
    environments: tuple[Environment, ...] = ()


def read(folder: Path) -> PolicyWork:
    """Reads a policy's work; of one that has no file, nothing; UserError where the file is damaged."""
    file = folder / "policy.json"
    return records.read(file, PolicyWork, f"train@{folder.name}") if file.exists() else PolicyWork()
