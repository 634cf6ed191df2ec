"""Training on the policy's own pictures with real workers: killed amid a rollout's updates, and spread over two."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffalign.config.params import Params
from diffalign.core.files import hash_folder, sha256_file
from tests.helpers import forked, killed, specs
from tests.helpers.project import METHODS

ROLLOUT = METHODS["ddpo"]["rollout"] | {"updates": 4}
POLICIES = {
    "base": {"method": "none"},
    "ddpo": {"method": "ddpo", "rollout": ROLLOUT, "advantage": {"kind": "history", "clip": 5.0}},
    "dpok": {"method": "dpok", "rollout": ROLLOUT, "lora": {"rank": 2, "alpha": 2, "targets": None}},
}
KILLED = -9


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A project with shards, in which the workers of this file train."""
    yield from forked.project(tmp_path_factory.mktemp("project"), POLICIES)


def trained(
    work: Path, values: Params, policy: str, processes: int = 1, strategy: str = "ddp", **changes: Any
) -> list[int | None]:
    """Trains, with a checkpoint after every second of eight steps; the workers' exit codes."""
    Path("steps-made").unlink(missing_ok=True)
    machine = specs.MACHINE.model_copy(update={"processes": processes, "parallel": strategy})
    specs.write(work, specs.spec(values, policy, machine, **changes))
    return forked.finish(forked.start(work, processes, killed.work))


def results(work: Path) -> tuple[str, str]:
    return hash_folder(work / "out"), sha256_file(work / "curve.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["ddpo", pytest.param("dpok", marks=pytest.mark.nightly)])
def test_a_run_killed_amid_a_rollouts_updates_goes_on_bit_for_bit(values: Params, policy: str) -> None:
    """Killed in the eighth step, the last of the second rollout's four: it rolls out again, from the old weights."""
    whole, broken = Path(f"runs/whole-{policy}"), Path(f"runs/broken-{policy}")
    assert trained(whole, values, policy) == [0]
    Path("kill-at").write_text("7")
    assert trained(broken, values, policy) == [KILLED]
    assert trained(broken, values, policy) == [0]
    assert Path("steps-made").read_text().split() == ["6", "7"]
    assert results(broken) == results(whole)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.nightly)])
def test_two_processes_train_as_one_does(values: Params, strategy: str) -> None:
    """The same pictures and advantages: the reward to the bit at the first rollout, weights but for sums' rounding."""
    one, two = Path("runs/one"), Path(f"runs/two-{strategy}")
    if not one.exists():
        assert trained(one, values, "ddpo") == [0]
    assert trained(two, values, "ddpo", 2, strategy) == [0, 0]
    curves = [[json.loads(line) for line in (w / "curve.jsonl").read_text().splitlines()] for w in (one, two)]
    rewards = [[line["reward_jpeg_compressibility"] for line in curve[:4]] for curve in curves]
    assert rewards[0] == rewards[1]
    weights = [load_file(next((work / "out").rglob("*.safetensors"))) for work in (one, two)]
    for name, weight in weights[0].items():
        close = torch.isclose(weights[1][name], weight, rtol=2e-3, atol=2e-4)
        assert close.double().mean() > 0.9999, (
            name
        )  # AdamW's step has a gradient's sign, which rounding may turn near 0


@pytest.mark.slow
@pytest.mark.nightly
def test_shared_old_weights_are_put_back_bit_for_bit(values: Params) -> None:
    """In FSDP each process has its part of the old weights; killed amid a rollout's updates, it goes on as it was."""
    whole, broken = Path("runs/whole-fsdp"), Path("runs/broken-fsdp")
    assert trained(whole, values, "ddpo", 2, "fsdp") == [0, 0]
    Path("kill-at").write_text("7")
    assert KILLED in trained(broken, values, "ddpo", 2, "fsdp")
    assert trained(broken, values, "ddpo", 2, "fsdp") == [0, 0]
    assert results(broken) == results(whole)
