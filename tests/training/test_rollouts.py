"""Training on the policy's own pictures with real workers: killed amid a rollout's updates, and spread over two."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffalign.config.params import Params
from diffalign.core.files import hash_folder, sha256_file
from tests.helpers import forked, killed, specs, tiny_rewards
from tests.helpers.project import GRADIENT, METHODS

# A smooth reward: sums in another order change it by their rounding, where a file's size jumps by a byte.
OWN = {"rollout": METHODS["ddpo"]["rollout"] | {"updates": 4}, "reward": GRADIENT["reward"]}
POLICIES = {
    "base": {"method": "none"},
    "ddpo": {"method": "ddpo", "advantage": {"kind": "history", "clip": 5.0}, **OWN},
    "dpok": {"method": "dpok", "lora": {"rank": 2, "alpha": 2, "targets": None}, **OWN},
}
KILLED = -9
RARELY = (("ddpo", 4), ("ddpo", 5), ("ddpo", 6), ("dpok", 7))
"""Policies, and the steps in which they are killed, whose tests are nightly."""


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A project with shards, in which the workers of this file train, with a checkpoint after each of eight steps."""
    folder = tmp_path_factory.mktemp("project")
    tiny_rewards.make("learned", folder / "judge")
    changes = {"rollouts": {"rewards_from": "judge"}, "runtime": {"checkpoint_every": 1}}
    yield from forked.project(folder, POLICIES, **changes)


def trained(work: Path, values: Params, policy: str, processes: int = 1, strategy: str = "ddp") -> list[int | None]:
    """Trains; the workers' exit codes."""
    Path("steps-made").unlink(missing_ok=True)
    machine = specs.MACHINE.model_copy(update={"processes": processes, "parallel": strategy})
    specs.write(work, specs.spec(values, policy, machine))
    return forked.finish(forked.start(work, processes, killed.work))


def uninterrupted(values: Params, policy: str) -> Path:
    """Where a policy has been trained by one process, which tests share."""
    work = Path(f"runs/whole-{policy}")
    if not work.exists():
        assert trained(work, values, policy) == [0]
    return work


def results(work: Path) -> tuple[str, str]:
    return hash_folder(work / "out"), sha256_file(work / "curve.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "step"),
    [("ddpo", 7), *(pytest.param(*case, marks=pytest.mark.nightly) for case in RARELY)],
)
def test_a_run_killed_amid_a_rollouts_updates_goes_on_bit_for_bit(values: Params, policy: str, step: int) -> None:
    """Killed in a step of the second rollout's four: unless in its first, it rolls out again from the old weights."""
    whole, broken = uninterrupted(values, policy), Path(f"runs/broken-{policy}-{step}")
    Path("kill-at").write_text(str(step))
    assert trained(broken, values, policy) == [KILLED]
    assert trained(broken, values, policy) == [0]
    assert Path("steps-made").read_text().split() == [str(made) for made in range(step, 8)]
    assert results(broken) == results(whole)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.nightly)])
def test_two_processes_train_as_one_does(values: Params, strategy: str) -> None:
    """Every line of the curve, and the way that the weights went, but for the rounding of sums."""
    one, two = uninterrupted(values, "ddpo"), Path(f"runs/two-{strategy}")
    assert trained(two, values, "ddpo", 2, strategy) == [0, 0]
    curves = [[json.loads(line) for line in (w / "curve.jsonl").read_text().splitlines()] for w in (one, two)]
    rewards = [[line["reward_learned"] for line in curve[:4]] for curve in curves]
    assert rewards[0] == rewards[1], "of the first rollout, to the bit"
    assert len(curves[0]) == 8
    assert all(b == pytest.approx(a, rel=1e-5, abs=1e-7) for a, b in zip(*curves, strict=True))
    files = [Path("model/unet"), *(work / "out/unet" for work in (one, two))]
    states = [load_file(folder / "diffusion_pytorch_model.safetensors") for folder in files]
    start, first, second = (torch.cat([state[name].flatten() for name in states[0]]) for state in states)
    assert (second - first).norm() < 1e-4 * (first - start).norm()


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
