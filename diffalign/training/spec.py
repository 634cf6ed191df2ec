"""One training run, typed from the params to the loss: what to train, on what data, on what machine."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SerializeAsAny, ValidationError

from diffalign.config.pairs import Pairs
from diffalign.config.probe import Probe
from diffalign.config.runtime import Runtime
from diffalign.config.training import Trained
from diffalign.config.values import Model
from diffalign.core import axes
from diffalign.core.errors import UserError
from diffalign.core.files import canonical_json, sha256_bytes, write_json

KEEPING = {"max_skips"}
"""Keys of a policy that change no weight: when a training gives up."""
CUTTING = {"micro_batch_size"}
"""Keys that cut a global batch into forwards: its sum is the same but for the last digits, so a run that was out of
memory goes on with smaller pieces."""


class Machine(Model):
    """Describes what computes a run: it must be the same for a bitwise resume."""

    device: str
    """cpu or cuda."""
    gpu: str | None = None
    """The GPU's name."""
    processes: int
    threads: int
    """CPU threads of each process."""
    precision: str
    """Of forward passes: fp32 or bf16."""
    parallel: str
    """How networks are spread over the processes, a name in `parallel.STRATEGIES`."""
    compiled: bool
    """Whether networks' blocks are compiled."""
    torch: str
    """PyTorch's version."""


class Spec(Model):
    """Describes one training run. Paths are relative to the working folder."""

    name: str
    """The policy's name in params."""
    family: str
    model: str
    """The folder of the model whose VAE, text encoder and scheduler are used."""
    policy: SerializeAsAny[Trained]
    """The settings of the policy's method: `Settings` of `diffalign/config/methods/METHOD.py`."""
    init_fingerprint: str
    """The hash of the weights that training starts from."""
    reference_fingerprint: str | None = None
    """The hash of the reference's weights; None where they are those."""
    pairs: Pairs
    comparisons: str
    shards: str
    machine: Machine
    runtime: Runtime
    """The cadence of the curve's points and of checkpoints, and how many stay."""
    reference: str = "data/reference"
    """The folder of the reference's kept errors; read where the policy's reference is cached."""
    probe: Probe | None = None
    """The settings of its probes; None: there are none."""
    rewards: dict[str, Any]
    """The settings of the rewards that score the probe's pictures, by name."""
    curated: str | None = None
    """The file of the images that a policy with `curate` is trained on, named by its content; None: it has none."""
    token_rows: tuple[str, ...] = ()
    """The raters whose vectors a policy with `rater_tokens` has, in the order of the rows."""

    def work(self) -> dict[str, Any]:
        """Returns what is to be done, as plain values, on whatever machine, however it is cut, kept and given up.

        A run may go on where only those have changed.
        """
        plain = self.model_dump(mode="json", exclude={"machine": True, "runtime": True, "probe": {"on_alarm"}})
        kept = {key: value for key, value in plain["policy"].items() if key not in KEEPING | CUTTING}
        return plain | {"policy": kept}

    def with_compiled(self, compiled: bool) -> "Spec":
        """Returns the same run with its networks compiled, or not."""
        return self.model_copy(update={"machine": self.machine.model_copy(update={"compiled": compiled})})

    def owner(self) -> str:
        """Returns a name of that work, for its checkpoints."""
        return f"{self.name}-{sha256_bytes(canonical_json(self.work()).encode())[:16]}"

    def write(self, path: Path) -> None:
        """Writes the run as JSON, for the workers."""
        write_json(path, self.model_dump(mode="json"))


def read(path: Path) -> Spec:
    """Reads what `Spec.write` wrote; UserError where it isn't that."""
    try:
        values = json.loads(path.read_text())
        return Spec.model_validate({**values, "policy": settings(values["policy"])})
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(
            f"{path}: expected a training run as the stage writes it, found {error}. Remove its folder and run the "
            "same command again."
        ) from None


def settings(policy: Mapping[str, Any]) -> Trained:
    """Returns a policy's plain values as its method's `Settings`."""
    found: Trained = axes.load("diffalign.config.methods", policy["method"]).Settings.model_validate(policy)
    return found
