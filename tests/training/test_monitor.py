"""Training that is watched: the weights stay the same, alarms fire where they should, the best step is published."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffalign.core.errors import UserError
from diffalign.monitoring import alarms
from diffalign.monitoring.curve import points
from diffalign.training import loop as training
from diffalign.training.spec import Spec
from stages import ingest, precompute
from tests.helpers import pickapic, specs
from tests.helpers.project import REPO, make_inputs, make_params

POLICIES: dict[str, dict[str, Any]] = {
    "ddpo": {"method": "ddpo"},
    "base": {"method": "none"},
    "dpo": {"method": "dpo", "beta": 2000},
    "lora": {"method": "dpo", "beta": 2000, "lora": {"rank": 4, "alpha": 8, "targets": None}},
    "average": {"method": "dpo", "beta": 2000, "ema": 0.5},
    "sft": {"method": "sft", "lr": 1e-4},
    "wild": {"method": "dpo", "beta": 2000, "lr": 0.1, "warmup_steps": 0},
}
QUIET = {"saturation": None, "divergence": None}
WATCHED = {"every": 2, "pairs": 7, "draws": 5, "images": 3, "image_steps": 2, "rewards": []}


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with shards and nine held-out pairs."""
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    make_inputs(folder, rows=12)
    pickapic.write(folder / "raw" / "validation_unique-00000-of-00001.parquet", pickapic.rows(12, start=100))
    values = make_params(folder, POLICIES)
    ingest.run(values)
    precompute.run(values)
    yield folder
    os.chdir(before)
    torch.use_deterministic_algorithms(False)


def specified(name: str, *, watched: dict[str, Any] | None = None, **changes: Any) -> Spec:
    """What the stage gives a worker, of one process."""
    values = make_params(Path.cwd(), POLICIES, probe=WATCHED | (watched or {}))
    return specs.spec(values, name, **changes)


def trained(work: Path, name: str, **changes: Any) -> Path:
    """Trains in this process; the folder that is published."""
    work.mkdir(exist_ok=True)
    training.run(specified(name, **changes), work)
    return work / "out"


def weights(out: Path) -> dict[str, torch.Tensor]:
    (file,) = out.rglob("*.safetensors")
    return load_file(file)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def lines(work: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (work / "curve.jsonl").read_text().splitlines()]


def policy_json(out: Path) -> dict[str, Any]:
    return json.loads((out / "policy.json").read_text())


@pytest.mark.parametrize("name", ["dpo", "lora", "average"])
def test_probes_change_no_weight_and_no_other_figure(tmp_path: Path, name: str) -> None:
    watched = trained(tmp_path / "a", name, steps=5)
    alone = trained(tmp_path / "b", name, steps=5, watched={"every": 0})
    assert same(weights(watched), weights(alone))
    rest = [{k: v for k, v in line.items() if not k.startswith("probe/")} for line in lines(tmp_path / "a")]
    assert rest == lines(tmp_path / "b")
    seen = points(lines(tmp_path / "a"))
    assert [point["step"] for point in seen] == [2, 4, 5]
    assert all(point["reference_drift"] == 0 and point["winner_change"] != 0 for point in seen)
    assert policy_json(alone)["alarms"] is None
    assert policy_json(watched)["chosen"] == {"step": 5, "why": "the last one (choose: last)"}


@pytest.mark.parametrize("name", ["dpo", "lora"])
def test_a_policy_that_hasnt_moved_is_its_reference(tmp_path: Path, name: str) -> None:
    """Zero to the last bit, at every draw; pairs that tie count half."""
    trained(tmp_path / "a", name, steps=1, lr=1e-30)
    (point,) = points(lines(tmp_path / "a"))
    zeros = [name for name in point if name.endswith(("_change", "_relative", "_se")) or name == "margin"]
    assert len(zeros) >= 2 * 7
    assert {point[name] for name in zeros} == {0.0}
    assert point["accuracy"] == 0.5


def test_without_a_reference_the_probe_has_its_own(tmp_path: Path) -> None:
    trained(tmp_path / "a", "sft", steps=2)
    trained(tmp_path / "b", "sft", steps=2, reference="none")
    (one,), (other,) = (points(lines(tmp_path / part)) for part in "ab")
    assert one.pop("reference_drift") == 0
    assert one == other


def test_lines_without_a_log_have_the_probe(tmp_path: Path) -> None:
    trained(tmp_path / "a", "sft", steps=4, log_every=3)
    assert [("loss" in line, "probe/margin" in line) for line in lines(tmp_path / "a")] == [
        (False, True),  # step 2
        (True, False),  # 3
        (True, True),  # 4
    ]


def test_a_policy_that_learns_from_its_own_pictures_is_chosen_by_a_judge(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The judge is the probe's reward that it isn't trained on; each probe has its step's figures, logged or not."""
    work, rewards = tmp_path / "a", ["jpeg_compressibility", "jpeg_incompressibility"]
    work.mkdir()
    probe = WATCHED | {"rewards": rewards, "clip_share": None}
    values = make_params(project, POLICIES, probe=probe, rewards={"oracle": {}} | {name: {} for name in rewards})
    training.run(specs.spec(values, "ddpo", steps=4, log_every=3, choose="probe"), work)
    seen = points(lines(work))
    assert [point["step"] for point in seen] == [2, 4]
    assert all(point["judge"] == point["score_jpeg_incompressibility/v1"] for point in seen)
    assert all({"reward", "reward_std", "clip_share", "alarm/judge_falls"} <= set(point) for point in seen)
    top = max(seen, key=lambda point: point["judge"])
    chosen = policy_json(work / "out")["chosen"]
    assert chosen["step"] == top["step"]
    assert chosen["why"].startswith("the judge's highest score")
    # Four channels of 8 x 8: 256 elements, 64 times fewer than SD 1.5's, so that 1e-3 is like 1.25e-4 there.
    assert "its clip is like 0.000125 at Stable Diffusion 1.5" in capsys.readouterr().err


def test_a_reward_that_is_trained_on_is_no_judge(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its scores of held-out prompts are logged, and no more; choosing a step by them is refused."""
    probe, reward = WATCHED | {"rewards": ["jpeg_compressibility"]}, "jpeg_compressibility"
    values = make_params(project, POLICIES, probe=probe, rewards={"oracle": {}, reward: {}})
    training.run(specs.spec(values, "ddpo", steps=2), tmp_path)
    (point,) = points(lines(tmp_path))
    assert {f"score_{reward}/v1", "reward", "alarm/reward_spread"} <= set(point)
    assert not {"judge", "judge_fall", "alarm/judge_falls"} & set(point)
    said = f"train ddpo: its pictures for held-out prompts are scored by {reward}, which it is trained on: that is no"
    assert capsys.readouterr().err.count(said) == 1
    chosen = POLICIES | {"ddpo": {"method": "ddpo", "choose": "probe"}}
    wrong = r"policies\.ddpo\.choose: expected last, or a judge .*; got 'probe', and probe\.rewards is jpeg_compressib"
    with pytest.raises(UserError, match=wrong):
        make_params(project, chosen, probe=probe, rewards={"oracle": {}, reward: {}})
    make_params(project, chosen, probe=probe | {"rewards": [reward, "oracle"]}, rewards={"oracle": {}, reward: {}})


def first_alarm(out: Path) -> int:
    """Where a run's first alarm was."""
    return policy_json(out)["alarms"][0]["step"]


class Killed(Exception):
    pass


def test_killed_and_resumed_it_says_and_chooses_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed right after the probe of step 6: the checkpoint is of step 4, the best weights may be younger."""
    how = {"steps": 8, "checkpoint_every": 4, "choose": "probe", "watched": {"winner_worse": 0.01}}
    whole = trained(tmp_path / "a", "dpo", **how)
    step = training.optimizer_step

    def dying(learner: Any, method: Any, policy: Any, at: int, logging: bool) -> Any:
        if at == 6:
            raise Killed
        return step(learner, method, policy, at, logging)

    monkeypatch.setattr(training, "optimizer_step", dying)
    with pytest.raises(Killed):
        trained(tmp_path / "b", "dpo", **how)
    monkeypatch.setattr(training, "optimizer_step", step)
    resumed = trained(tmp_path / "b", "dpo", **how)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    assert policy_json(resumed) == policy_json(whole)
    assert same(weights(resumed), weights(whole))
    names = sorted(path.name for path in (whole / "probe").iterdir())
    assert names == [f"step-{n:06d}.png" for n in (2, 4, 6, 8)]
    assert all((whole / "probe" / n).read_bytes() == (resumed / "probe" / n).read_bytes() for n in names)


def test_the_chosen_steps_weights_are_published(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The run that ends at the chosen step has the same weights, and no step in between has a larger margin."""
    limits = {"winner_worse": None, "saturation": None, "divergence": None}
    out = trained(tmp_path / "a", "wild", choose="probe", steps=6, watched=limits)
    seen = points(lines(tmp_path / "a"))
    best = max(seen, key=lambda point: point["margin"])["step"]
    chosen = policy_json(out)["chosen"]
    assert chosen["step"] == best
    assert f"train wild: step {best} is published: the largest margin" in capfd.readouterr().err
    assert same(weights(out), weights(trained(tmp_path / "b", "wild", steps=best, watched={"every": 0})))


def test_a_probe_looks_at_the_average_that_would_be_published(tmp_path: Path) -> None:
    """An average without memory is the weights, one that forgets nothing the init; the chosen step's is published."""
    limits = {"winner_worse": None, "saturation": None, "divergence": None}
    how: dict[str, Any] = {"choose": "probe", "steps": 6, "watched": limits}
    plain, forgetful, stuck, average = (
        trained(tmp_path / name, "wild", ema=decay, **how)
        for name, decay in (("plain", None), ("forgetful", 1e-12), ("stuck", 1 - 1e-9), ("average", 0.9))
    )
    seen = points(lines(tmp_path / "plain"))
    assert points(lines(tmp_path / "forgetful")) == seen
    assert same(weights(forgetful), weights(plain))
    assert (forgetful / "probe/step-000004.png").read_bytes() == (plain / "probe/step-000004.png").read_bytes()
    assert min(abs(point["winner_change"]) for point in seen) > 1e-2
    assert max(abs(point["winner_change"]) for point in points(lines(tmp_path / "stuck"))) < 1e-5
    assert policy_json(stuck)["alarms"] == []
    chosen = policy_json(average)["chosen"]["step"]
    assert chosen == max(points(lines(tmp_path / "average")), key=lambda point: point["margin"])["step"] < 6
    there = trained(tmp_path / "there", "wild", ema=0.9, steps=chosen, watched={"every": 0})
    assert same(weights(average), weights(there))


def test_the_weights_of_probes_that_arent_best_any_more_go(tmp_path: Path) -> None:
    """At the end there are those of the best probe, and those that were best at a checkpoint that's still there."""
    trained(tmp_path / "a", "dpo", choose="probe", watched={"winner_worse": None, "saturation": None})
    history = points(lines(tmp_path / "a"))
    kept = sorted(int(path.name.removeprefix("step-")) for path in (tmp_path / "a" / "checkpoints").glob("step-*"))
    limits = dict.fromkeys(alarms.ALARMS)
    needed = {alarms.best(history, limits)[0]}
    needed |= {alarms.best([p for p in history if p["step"] <= step], limits)[0] for step in kept}
    there = {int(path.stem.removeprefix("step-")) for path in (tmp_path / "a" / "best").iterdir()}
    assert needed <= there
    assert len(there - needed) <= 1, "the newest may stand there until the next checkpoint"


def test_alarms_fire_in_a_run_with_an_absurd_rate_and_not_in_a_tame_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wild = policy_json(trained(tmp_path / "a", "wild", steps=6))
    said = capfd.readouterr().err
    seen = points(lines(tmp_path / "a"))
    over = [p["step"] for p in seen if p["winner_relative"] - alarms.ONE_SIDED * p["winner_relative_se"] > 0.4]
    assert over[-1] == 6
    assert f"warning: train wild: step {over[0]}: winner_worse: the policy denoises held-out winners worse" in said
    (alarm,) = [alarm for alarm in wild["alarms"] if alarm["name"] == "winner_worse"]
    assert (alarm["step"], alarm["last"]) == (over[0], 6) and alarm["value"] > alarm["threshold"] == 0.4
    assert [p["step"] for p in seen if p["alarm/winner_worse"]] == over

    tame = policy_json(trained(tmp_path / "b", "sft", steps=4))
    assert tame["alarms"] == []
    assert "warning" not in capfd.readouterr().err
    assert [point["alarm/winner_worse"] for point in points(lines(tmp_path / "b"))] == [0, 0]


def test_an_alarm_stops_the_run_until_it_is_told_to_go_on(tmp_path: Path) -> None:
    watched = QUIET | {"winner_worse": 0.1}
    step = first_alarm(trained(tmp_path / "b", "wild", steps=6, watched=watched))
    expected = rf"training of wild was stopped by an alarm at step {step}: winner_worse: .*set probe\.on_alarm to warn"
    for _ in range(2):  # the second attempt goes on from the checkpoint, where the alarm still holds
        with pytest.raises(UserError, match=expected):
            trained(tmp_path / "a", "wild", steps=6, watched=watched | {"on_alarm": "stop"})
        assert (tmp_path / "a" / "checkpoints" / f"step-{step:08d}").is_dir()
        assert lines(tmp_path / "a")[-1]["step"] == step
    assert same(weights(trained(tmp_path / "a", "wild", steps=6, watched=watched)), weights(tmp_path / "b" / "out"))
    stop, warn, other = ({"on_alarm": "stop"}, {"on_alarm": "warn"}, {"seed": 1})
    assert specified("wild", watched=stop).owner() == specified("wild", watched=warn).owner()
    assert specified("wild", watched=stop).owner() != specified("wild", watched=other).owner()


@pytest.mark.slow
def test_a_stopped_stage_exits_with_2_and_two_processes_see_what_one_does(tmp_path: Path) -> None:
    """35 draws and 3 pictures, which two ranks can't share evenly. Two runs of the command line."""
    for name in ("pipeline.py", "dvc.yaml"):  # it works in its own folder
        shutil.copy(REPO / name, ".")
    shutil.copytree(REPO / "stages", "stages", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(REPO), "DIFFALIGN_TRACKING": "0"}
    watched = WATCHED | {"on_alarm": "stop", "winner_worse": 1e-6}
    make_params(Path.cwd(), POLICIES | {"dpo": POLICIES["dpo"] | {"steps": 2, "lr": 1e-2}}, probe=watched)
    found, pictures = [], []
    for processes in ("1", "2"):
        command = [sys.executable, "pipeline.py", "stage", "train@dpo"]
        done = subprocess.run(
            command, env=environment | {"DIFFALIGN_PROCESSES": processes}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 2, done.stderr
        assert "was stopped by an alarm at step 2: winner_worse" in done.stderr
        (work,) = Path("runs").glob("train-dpo-*")
        assert json.loads((work / "spec.json").read_text())["machine"]["processes"] == int(processes)
        found += points(lines(work))
        pictures.append(np.asarray(Image.open(work / "pictures" / "step-000002.png"), np.float64))
        shutil.rmtree(work)  # another number of processes would go on with it
    assert found[0] == pytest.approx(found[1], rel=2e-3, abs=1e-6)
    assert pictures[0].shape == (64, 3 * 64, 3)
    assert np.abs(pictures[0] - pictures[1]).max() <= 2
    assert len({pictures[0][:, 64 * i : 64 * (i + 1)].tobytes() for i in range(3)}) == 3


def test_weights_that_move_under_the_reference_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LoRA's reference is the network without its adapters; something adds to a weight of it at step 3."""
    step = training.optimizer_step

    def meddling(learner: Any, method: Any, policy: Any, at: int, logging: bool) -> Any:
        if at == 2:
            with torch.no_grad():
                next(p for p in learner.denoiser.parameters() if not p.requires_grad).add_(0.1)
        return step(learner, method, policy, at, logging)

    monkeypatch.setattr(training, "optimizer_step", meddling)
    found = policy_json(trained(tmp_path / "a", "lora", steps=4))["alarms"]
    assert [(alarm["name"], alarm["step"]) for alarm in found if alarm["name"] == "reference_changed"] == [
        ("reference_changed", 4)
    ]


def test_scores_of_the_pictures(tmp_path: Path) -> None:
    """The oracle reads no caption of another world: it scores none, and that's said."""
    trained(tmp_path / "a", "sft", steps=2, watched={"rewards": ["oracle"]})
    (point,) = points(lines(tmp_path / "a"))
    assert point["unscored_oracle"] == 3 and "score_oracle" not in point


def test_with_no_pairs_held_out_there_are_no_probes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diffalign.training.monitor.held_out_pairs", lambda spec: [])
    out = trained(tmp_path / "a", "sft", steps=2)
    assert "no untied comparison in the validation split: no probes" in capfd.readouterr().err
    assert policy_json(out)["alarms"] is None and not points(lines(tmp_path / "a"))
    for changes in ({"choose": "probe"}, {"watched": {"on_alarm": "stop"}}):
        with pytest.raises(UserError, match=r"no probe can choose policies\.sft's step or stop its training"):
            trained(tmp_path / "b", "sft", steps=2, **changes)


def test_choosing_by_probe_needs_probes() -> None:
    with pytest.raises(UserError, match=r"policies\.dpo\.choose: expected last, since probe\.every is 0"):
        make_params(Path.cwd(), POLICIES | {"dpo": POLICIES["dpo"] | {"choose": "probe"}}, probe={"every": 0})


@pytest.mark.parametrize("name", ["dpo", "lora", "average"])
def test_weights_that_arent_finite_are_not_published(tmp_path: Path, name: str) -> None:
    """The only step's gradient is finite, its size isn't: no later loss sees the weights that it leaves."""
    with pytest.raises(UserError, match=rf"training of {name}: expected finite weights.*\.{name}\.lr"):
        trained(tmp_path / "a", name, steps=1, lr=1e39, warmup_steps=0, watched={"every": 0})
    assert not (tmp_path / "a/out").exists()
