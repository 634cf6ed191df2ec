"""Training runs for tests, as the train stage specifies them, on a CPU in one process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diffalign.config.params import Params
from diffalign.config.runtime import Runtime
from diffalign.config.training import Trained
from diffalign.models import inits
from diffalign.training import loop as training
from diffalign.training.spec import Machine, Spec
from diffalign.training.spec import read as read_spec
from stages import train

MACHINE = Machine(
    device="cpu",
    processes=1,
    threads=1,
    precision="fp32",
    parallel="ddp",
    compiled=False,
    torch=torch.__version__,
)


def spec(values: Params, policy: str, machine: Machine = MACHINE, **changes: Any) -> Spec:
    """The run of a policy in the working folder, with changes to its settings, or to how it is kept (`runtime`)."""
    settings = values.policies[policy]
    assert isinstance(settings, Trained)
    kept = {key: changes.pop(key) for key in list(changes) if key in Runtime.model_fields}
    values = values.model_copy(update={"runtime": values.runtime.model_copy(update=kept)})
    settings = type(settings).model_validate(settings.model_dump() | changes)
    init = inits.fingerprint("init", values.model.family, values.model.path, settings.init)
    return train.make_spec(values, policy, settings, init, machine)


def write(work: Path, run: Spec) -> Path:
    """Writes a run into its work folder, for a worker; where it is."""
    work.mkdir(parents=True, exist_ok=True)
    run.write(work / "spec.json")
    return work / "spec.json"


def train_here(values: Params, policy: str, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """The train stage with its worker in this process; the curve."""

    def launch(module: str, arguments: list[str], *rest: object) -> None:
        path = Path(arguments[0])
        training.run(read_spec(path), path.parent)

    monkeypatch.setenv("DIFFALIGN_PROCESSES", "1")
    monkeypatch.setattr("diffalign.training.start.launch", launch)
    try:
        train.run(values, policy)
    finally:
        torch.use_deterministic_algorithms(False)
    return [json.loads(line) for line in Path(f"curves/{policy}.jsonl").read_text().splitlines()]
