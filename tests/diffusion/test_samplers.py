"""The samplers against diffusers' schedulers; which process each is for; step counts that a spacing can't have."""

import subprocess
import sys
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from diffalign.config import samplers as config
from diffalign.core import axes
from diffalign.core.errors import UserError
from diffalign.diffusion.process import Diffusion, Flow, Process, scaled_linear
from diffalign.diffusion.samplers import flow_euler, spacing
from diffalign.diffusion.samplers.sampler import FLOW, load
from tools import sampler_table
from tools.sampler_table import STEPS, Case, cases, difference

# diffusers' schedulers give tensors to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

BOUND = 1e-5
DIFFUSION = Diffusion(scaled_linear(0.00085, 0.012, 1000), "epsilon")
SETTINGS: list[dict[str, Any]] = [
    {"name": "ddim", "eta": 0.3, "spacing": "leading"},
    {"name": "dpmpp_2m", "spacing": "leading"},
    {"name": "euler", "spacing": "leading"},
    {"name": "euler_ancestral", "spacing": "leading"},
    {"name": "flow_euler"},
    {"name": "flow_sde", "noise": 0.7},
    {"name": "flow_dance", "noise": 0.3},
    {"name": "flow_cps", "noise": 0.8},
]


def label(case: Case) -> str:
    return "-".join(map(str, (*case.settings.values(), case.prediction, case.shift)))


@pytest.mark.parametrize("case", list(cases()), ids=label)
def test_each_state_of_each_trajectory_is_diffusers(case: Case) -> None:
    """Within 1e-5, at all step counts; against the scheduler in float64, whose own rounding isn't ours to match."""
    assert max(difference(case, steps, wide=True) for steps in STEPS) < BOUND


@pytest.mark.parametrize("case", [case for case in cases() if case.prediction != "zero-SNR"], ids=label)
def test_and_as_the_scheduler_rounds(case: Case) -> None:
    """Within 1e-5 of the scheduler as it is, in float32, on schedules where sigma / alpha isn't 4096."""
    assert max(difference(case, steps, wide=False) for steps in STEPS) < BOUND


def test_the_table_is_printed_by_its_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """One line a case, in Markdown, with the figures that the tests above compare."""
    monkeypatch.setattr(sampler_table, "STEPS", (2,))
    sampler_table.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    found = {line.split(" | ")[0][2:]: line.strip("| ").split(" | ") for line in lines}
    assert len(lines) == len(found) == len(list(cases()))
    row = found["ddim, eta 0.0, spacing trailing, epsilon"]
    assert row[1:3] == ["DDIMScheduler", "0.0e+00"]
    assert all(float(cells[3]) < BOUND for cells in found.values())


def test_flow_euler_is_diffusers_bit_for_bit() -> None:
    """The times, what the network is told, and the pictures."""
    for shift, steps in ((3.0, 28), (1.0, 7)):
        scheduler = FlowMatchEulerDiscreteScheduler(1000, shift=shift)
        scheduler.set_timesteps(steps)
        moves = flow_euler.moves(Flow(1000, shift), steps)
        assert [t for t, _ in moves] + [moves[-1][1]] == scheduler.sigmas.tolist()
        assert torch.equal(torch.tensor([t for t, _ in moves]) * 1000, scheduler.timesteps)
        assert difference(Case({"name": "flow_euler"}, "flow", shift), steps, wide=False) == 0


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s["name"])
def test_a_sampler_of_the_other_kind_of_process_is_refused(settings: dict[str, Any]) -> None:
    flow = settings["name"].startswith("flow")
    mine, other = (Flow(1000, 3.0), DIFFUSION) if flow else (DIFFUSION, Flow(1000, 3.0))
    wrong: Process = other
    assert len(load(settings).plan(mine, 4).moves) == 4
    kind = "a diffusion model" if flow else "a flow model"
    suited = [name for name, process in config.SAMPLERS.items() if (process == "flow") is not flow]
    with pytest.raises(UserError, match=rf"generate\.sampler, .*overrides: {settings['name']} .*{kind}: ") as error:
        load(settings).plan(wrong, 4)
    assert str(error.value).endswith(f"expected one of {', '.join(sorted(suited))}")


def test_every_sampler_has_its_file_its_settings_and_its_family() -> None:
    """Names in the config equal the files' names; settings there are what `build` takes."""
    classes = get_args(config.Settings)
    names = [get_args(cls.model_fields["name"].annotation)[0] for cls in classes]
    assert sorted(names) == axes.names("diffalign.diffusion.samplers")
    assert sorted(names) == sorted(settings["name"] for settings in SETTINGS)
    assert all(name.startswith(FLOW) is (process == "flow") for name, process in config.SAMPLERS.items())
    by_name = dict(zip(names, classes, strict=True))
    for settings in SETTINGS:
        cls = by_name[settings["name"]]
        assert cls(**settings).model_dump() == settings
        mine = Flow(1000, 1.0) if cls.process == "flow" else DIFFUSION
        load(settings).plan(mine, 4)


@pytest.mark.parametrize(
    ("settings", "steps", "expected"),
    [
        ({"name": "ddim", "eta": 0.0, "spacing": "leading"}, 501, r"expected 1\.\.500.*got 501"),
        ({"name": "ddim", "eta": 0.0, "spacing": "leading"}, 0, r"expected 1\.\.500.*got 0"),
        ({"name": "dpmpp_2m", "spacing": "leading"}, 500, r"expected 1\.\.499.*got 500"),
        ({"name": "ddim", "eta": 0.0, "spacing": "linspace"}, 1, r"expected 2\.\.1000 with spacing linspace, got 1"),
        ({"name": "euler", "spacing": "linspace"}, 1, r"expected 2\.\.1000 with spacing linspace, got 1"),
        ({"name": "euler", "spacing": "trailing"}, 1001, r"expected 1\.\.1000.*got 1001"),
    ],
)
def test_step_counts_that_a_spacing_has_no_times_for(settings: dict[str, Any], steps: int, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        load(settings).plan(DIFFUSION, steps)


def test_spacings_by_hand() -> None:
    """T = 10: in steps of 10 // 4 = 2, plus 1; from 9 down by 10 / 4 = 2.5, halves to even; 9 / 3 = 3 apart."""
    assert spacing.leading(10, 4, 4) == [7, 5, 3, 1]
    assert spacing.leading(10, 3, 4) == [7, 5, 3]
    assert spacing.trailing(10, 4) == [9, 7, 4, 1]
    assert spacing.linspace(10, 4) == [9.0, 6.0, 3.0, 0.0]
    assert spacing.rounded(12, 4) == [11, 7, 4, 0]
    assert spacing.linspace(12, 4) == [11.0, np.float32(22 / 3), np.float32(11 / 3), 0.0]


def test_loading_a_sampler_imports_no_diffusers() -> None:
    code = "import sys; from diffalign.diffusion.samplers.sampler import load; load({'name': 'flow_euler'}); "
    done = subprocess.run([sys.executable, "-c", code + "sys.exit('diffusers' in sys.modules)"], check=False)
    assert done.returncode == 0
