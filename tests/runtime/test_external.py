"""The place that an external launcher gave a process: taken where a switch asks, refused where it isn't whole."""

import pytest

from diffalign.core.errors import UserError
from diffalign.runtime import environment, external

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RESTART_COUNT": "0",
}
SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_NNODES": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher's variables but a test's."""
    for name in {*TORCHRUN, *SRUN, "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES"}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DIFFALIGN_DEVICE", "cpu")


def given(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_left_over_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, TORCHRUN)
    assert external.place() is None
    assert environment.world_size() == 1
    monkeypatch.setenv("DIFFALIGN_LAUNCHER", "own")
    assert external.place() is None


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_a_launchers_place(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    given(monkeypatch, variables | {"DIFFALIGN_LAUNCHER": "external"})
    place = external.place()
    assert place is not None
    assert (place.rank, place.processes, place.local_rank, place.local_processes) == (3, 4, 1, 2)
    agent = {name: value for name, value in variables.items() if name.startswith("TORCHELASTIC_")}
    plain = {name: value for name, value in TORCHRUN.items() if not name.startswith("TORCHELASTIC_")}
    assert place.variables() == plain | agent
    assert environment.world_size() == 4


def test_what_is_missing_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFALIGN_LAUNCHER", "external")
    with pytest.raises(UserError) as error:
        external.place()
    for name in ("RANK or SLURM_PROCID", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"RANK": "4"}, "RANK: expected a number below WORLD_SIZE, 4, got 4"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK: expected a number below LOCAL_WORLD_SIZE, 2, got 2"),
        ({"WORLD_SIZE": "four"}, "expected a whole number, got 'four'"),
        ({"DIFFALIGN_PROCESSES": "2"}, "DIFFALIGN_PROCESSES: expected nothing"),
    ],
)
def test_contradictions_are_refused(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], text: str) -> None:
    given(monkeypatch, TORCHRUN | {"DIFFALIGN_LAUNCHER": "external"} | changes)
    with pytest.raises(UserError, match=text):
        external.place()
