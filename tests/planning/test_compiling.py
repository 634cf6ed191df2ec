"""When a training compiles its networks: by hand-derived work, by what was before, by the switch."""

import json
from pathlib import Path

import pytest

from diffalign.planning import compiling, counts, planner
from diffalign.training import start
from tests.helpers.project import make_inputs, make_params

H200 = 784e12
"""FLOP/s of a bf16 product, measured (FACTS)."""


def test_the_work_to_come_decides() -> None:
    """35% of 784 TFLOP/s is 274.4 T a second.

    The tiny model: 0.27 GFLOP a forward and image, eight forwards' worth a pair (two images, each forward and backward
    of the policy and one of the reference): 400 steps of 32 pairs are 2.8e13 FLOP, 0.1 s. SD1.5: 1,000 steps of 2,048
    pairs of 6.42 TFLOP are 1.31e19, 13 hours. The border is 600 s, 1.646e17 FLOP.
    """
    tiny = compiling.decide(400 * 32 * 8 * 0.27e9, H200)
    assert not tiny.compiled and "about 0.00168 min of work" in tiny.why
    large = compiling.decide(1000 * 2048 * 6.42e12, H200)
    assert large.compiled and "about 799 min of work at 35% of 784 TFLOP/s, at least 10" in large.why
    assert [compiling.decide(flop, H200).compiled for flop in (1.646e17, 1.647e17)] == [False, True]
    assert compiling.decide(1.647e17, 8 * H200).compiled is False, "eight devices need an eighth of the time"


def test_a_line_of_the_log_says_it() -> None:
    said = compiling.decide(1e12, 1e13).told("train dpo")
    assert said == (
        "train dpo: networks are not compiled: about 0.00476 min of work at 35% of 10 TFLOP/s, under 10 "
        "(DIFFALIGN_COMPILE)\n"
    )


def test_the_switch_overrides_and_a_cpu_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a switch, a device that isn't a CPU counts and measures."""
    monkeypatch.chdir(tmp_path)
    make_inputs(tmp_path, rows=3)
    params = make_params(tmp_path, {"base": {"method": "none"}, "dpo": {"method": "dpo"}})
    monkeypatch.setenv("DIFFALIGN_DEVICE", "cpu")
    assert not compiling.chosen(params, ["dpo"]).compiled
    monkeypatch.setenv("DIFFALIGN_COMPILE", "1")
    assert compiling.chosen(params, ["dpo"]).compiled
    monkeypatch.delenv("DIFFALIGN_COMPILE")
    monkeypatch.setattr("diffalign.runtime.environment.compile_choice", lambda: None)
    monkeypatch.setattr("diffalign.planning.flops.matmul_rate", lambda *a, **k: 1.0)
    assert compiling.chosen(params, ["dpo", "base"]).compiled, "at 1 FLOP/s"
    monkeypatch.setattr("diffalign.planning.flops.matmul_rate", lambda *a, **k: 1e15)
    assert not compiling.chosen(params, ["dpo", "base"]).compiled
    for before in (True, False):
        decision = compiling.chosen(params, ["dpo"], before)
        assert decision.compiled is before
        said = "compiled" if before else "not compiled"
        assert decision.told("train dpo").startswith(f"train dpo: networks are {said}: as before")
    policy = params.policies["dpo"]
    machine = planner.Machine("cpu", None, 1, 1, "fp32", "ddp", None, 1e9)
    (plan,) = planner.plans(params, machine)
    assert counts.whole(params, "dpo") == plan.flop == plan.flop_per_pair * policy.steps * policy.batch_size
    assert counts.whole(params, "base") == 0


def test_a_run_goes_on_as_it_began(tmp_path: Path) -> None:
    """By the newest checkpoint whose file can be read."""
    assert start.compiled_before(tmp_path) is None
    for step, compiled in ((2, False), (4, True)):
        folder = tmp_path / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        content = {"environments": [{"compiled": not compiled}, {"compiled": compiled}]}
        (folder / "checkpoint.json").write_text(json.dumps({"content": content}))
    assert start.compiled_before(tmp_path) is True
    (folder / "checkpoint.json").write_text("{")
    assert start.compiled_before(tmp_path) is False
