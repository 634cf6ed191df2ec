"""The study: verdicts by hand, a tiny one end to end through the real stages, and a second time for nothing."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffalign.config.load import load
from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.core.files import write_json
from diffalign.data.comparisons import table as comparisons
from diffalign.reporting.format import alarm_words
from diffalign.shapes.build import raters
from stages import ingest, precompute, train
from studies import claims, kept, personal
from studies import job as study_job
from studies import results as study_results
from studies import run as study_runs
from studies import runner as flow
from studies import shapes_world as study
from studies.claims import BASE, AlarmsTell, Claim, Found, beats, near
from studies.shapes_world import RUNS, STUDY
from tests.helpers import pickapic
from tests.helpers.project import make_params
from tests.helpers.study_results import HOW, result
from tests.helpers.tiny import make_model
from tests.helpers.world import CAPTIONS, drawing


def contest(low: float, high: float) -> dict[str, Any]:
    return {"win_rate": (low + high) / 2, "ci_low": low, "ci_high": high, "seeds": 1, "meant": 1}


@pytest.mark.parametrize(
    ("low", "high", "wins", "close"),
    [
        (0.51, 0.58, True, True),
        (0.61, 1.0, True, False),
        (0.55, 0.70, True, None),
        (0.45, 0.55, None, True),
        (0.41, 0.59, None, True),
        (0.30, 0.70, None, None),
        (0.42, 0.49, False, True),
        (0.10, 0.39, False, False),
    ],
)
def test_a_line_holds_fails_or_cant_be_told(low: float, high: float, wins: bool | None, close: bool | None) -> None:
    found = Found({("a", "b"): contest(low, high)}, {})
    assert beats("a", "b").holds(found) is wins
    assert near("a", "b").holds(found) is close


@pytest.mark.parametrize(
    ("intervals", "verdict"),
    [
        ([(0.6, 0.8), (0.51, 0.6)], "reproduced"),
        ([(0.6, 0.8), (0.2, 0.49)], "not reproduced"),
        ([(0.6, 0.8), (0.49, 0.6)], "can't be told"),
        ([(0.2, 0.4), (0.49, 0.6)], "not reproduced"),
        ([(0.6, 0.8)], "not run yet"),
        ([], "not run yet"),
    ],
)
def test_the_verdict_is_on_all_lines(intervals: list[tuple[float, float]], verdict: str) -> None:
    claim = Claim("words", "somebody", (beats("a", "c"), beats("b", "c")))
    found = Found(dict(zip([("a", "c"), ("b", "c")], [contest(*i) for i in intervals], strict=False)), {})
    judged = claims.verdict(claim, found, {"a": "A", "b": "B", "c": "C"})
    assert judged["verdict"] == verdict
    assert [line["expected"] for line in judged["lines"]] == ["A beats C", "B beats C"]
    assert [line["seen"] == "not run yet" for line in judged["lines"]] == [len(intervals) < 1, len(intervals) < 2]


def test_a_contest_that_nobody_could_judge_tells_nothing() -> None:
    claim = Claim("words", "somebody", (beats("a", "c"),))
    found = Found({("a", "c"): contest(0, 1) | {"win_rate": None, "ci_low": None, "ci_high": None}}, {})
    assert claims.verdict(claim, found, {"a": "A", "c": "C"})["verdict"] == "can't be told"


ALARM = [{"name": "winner_worse", "step": 50}]


@pytest.mark.parametrize(
    ("bad", "alarms", "holds"),
    [
        ((0.2, 0.3), ([], ALARM), True),
        ((0.2, 0.3), ([], []), False),  # it lost without an alarm
        ((0.2, 0.3), (ALARM, ALARM), False),  # a false alarm in the good one
        ((0.45, 0.55), ([], ALARM), None),  # nobody lost
        ((0.2, 0.3), ([], None), None),  # nobody watched
    ],
)
def test_alarms_tell(bad: tuple[float, float], alarms: Any, holds: bool | None) -> None:
    runs = {name: {"alarms": raised} for name, raised in zip(("good", "bad"), alarms, strict=True)}
    line, labels = AlarmsTell(("good",), ("bad",)), {"good": "Good", "bad": "Bad"}
    found = Found({("bad", "good"): contest(*bad)}, runs)
    assert line.holds(found) is holds
    seen = line.seen(found, labels)
    assert seen.startswith(f"Good: {alarm_words(alarms[0])}; Bad wins {sum(bad) / 2:.1%}")
    assert line.words(labels) == "an alarm in every run that loses to Good, and none in Good"


def test_claims_are_of_runs_that_are_made() -> None:
    for group in STUDY:
        assert set(group.runs) <= set(RUNS)
        for claim in group.claims:
            names = {name for line in claim.lines for pair in line.contests for name in pair}
            assert {run for name in names for run in study_results.members(name)} <= {*group.runs, BASE}, claim.words
    assert set(study.needed(STUDY)) == set(RUNS)


def test_models_are_called_as_the_comparisons_call_them() -> None:
    assert study.MAKERS == {"weaker": raters.WEAKER, "own": raters.BASE, "stronger": raters.STRONGER}


def test_families_differ_in_their_seed_only() -> None:
    for runs in study.SEEDS.values():
        assert {RUNS[name].of for name in runs} == {RUNS[runs[0]].of} and len(runs) == 3
        first = dict(RUNS[runs[0]].changes)
        assert [dict(RUNS[name].changes) for name in runs] == [first, first | {"seed": 1}, first | {"seed": 2}]


def test_families_meet_seed_by_seed_with_seeds_in_the_interval() -> None:
    """Rates 1/2, 3/4, 1 over the base; against sft's families, which score the same, all are ties."""
    scores = {"dpo": [2.0, 2, 0, 0], "seed_1": [2.0, 2, 2, 0], "seed_2": [2.0, 2, 2, 2], BASE: [1.0, 1, 1, 1]}
    results = {name: result(list(values)) for name, values in scores.items()}
    results |= {sft: results[dpo] for dpo, sft in zip(study.SEEDS["dpo_seeds"], study.SEEDS["sft_seeds"], strict=True)}
    found = study_results.contest("dpo_seeds", BASE, results, HOW)
    alone = study_results.contest("dpo", BASE, results, HOW)
    assert found and alone
    assert found["win_rate"] == pytest.approx(0.75) and alone["win_rate"] == 0.5
    assert found["ci_low"] < 0.2 and found["ci_high"] == 1  # three seeds so far apart say little
    met = study_results.contest("dpo_seeds", "sft_seeds", results, HOW)
    assert met and met["win_rate"] == 0.5
    del results["seed_2"]
    fewer = study_results.contest("dpo_seeds", BASE, results, HOW)
    assert fewer and (fewer["win_rate"], fewer["seeds"], fewer["meant"]) == (pytest.approx(0.625), 2, 3)
    line, names = beats("dpo_seeds", BASE), ("dpo_seeds", BASE)
    assert line.seen(Found({names: fewer}, {}), {}).endswith(", 2 of 3 seeds")
    assert study_results.contest("nft_seeds", BASE, results, HOW) is None


def test_every_run_is_a_policy_that_the_params_admit(repo: Path) -> None:
    job = study_job.Study(load(repo / "params.yaml"), 200, None, repo)
    values = job.params(list(RUNS))
    default = job.values.policies
    assert values.policies["dpo"] == default["dpo"]
    assert values.policies["sft"] == default["sft"]
    others = [name for name, run in RUNS.items() if run.changes and run.asked == "all"]
    assert all(values.policies[name] != default[RUNS[name].of] for name in others)
    assert values.policies["beta_10"] == default["dpo"].model_copy(update={"beta": 10.0})


def test_kept_results_count_where_the_settings_are_the_same(repo: Path, tmp_path: Path) -> None:
    """Whatever code made them, and whichever keys without a value came since; not after a change of the run."""
    job = study_job.Study(load(repo / "params.yaml"), study_job.PROMPTS, None, tmp_path)
    (tmp_path / "assets").symlink_to(repo / "assets")
    for name in ("grpo", "refl"):
        kept.write(job.kept, name, result([0.5], settings=job.settings(name)))
    assert job.kept == tmp_path / "studies/results" and list(job.results()) == ["grpo", "refl"]
    other = job.values.model_copy(update={"generate": job.values.generate.model_copy(update={"steps": 11})})
    assert study_job.Study(other, study_job.PROMPTS, None, tmp_path).results() == {}
    quick = study_job.Study(job.values, study_job.PROMPTS, 2, tmp_path)
    assert quick.kept == tmp_path / "runs/study/results" and quick.settings("grpo") != job.settings("grpo")


def test_where_all_results_are_kept_nothing_else_is_needed(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No comparisons, shards or reward model: the table is made of what git brought."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").symlink_to(repo / "assets")
    values = load(repo / "params.yaml")
    job = study_job.Study(values, study_job.PROMPTS, None, tmp_path)
    for name, score in {BASE: 0.5, "doodl": 0.4, "best_of_16": 0.6}.items():
        kept.write(job.kept, name, result([score] * 40, settings=job.settings(name)))
    text = flow.run(values, ["doodl"])
    assert "NOT REPRODUCED: The gradient raises the reward more" in text
    assert set(json.loads(Path("metrics/study.json").read_text())["runs"]) == {"doodl", "best_of_16"}
    kept.file(job.kept, "doodl").unlink()
    with pytest.raises(UserError, match="reward@learned"):
        flow.run(values, ["doodl"])


def test_head_to_head_by_hand() -> None:
    """Of four images two win, one ties, one can't be scored: (2 + 1/2) / 3."""
    found = study_results.head_to_head(result([0.9, 0.8, 0.5, None]), result([0.1, 0.2, 0.5, 0.3]), HOW)
    assert (found["wins"], found["ties"], found["losses"], found["prompts"]) == (2, 1, 0, 3)
    assert found["win_rate"] == pytest.approx(2.5 / 3)
    assert found["ci_low"] < found["win_rate"] < found["ci_high"] or found["ci_high"] == 1


def test_results_of_other_prompts_arent_compared() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        study_results.head_to_head(result([0.9]), result([0.1, 0.2]), HOW)


def test_the_orderings_decide_the_verdicts() -> None:
    """40 prompts; DPO's scores are above the base's, SFT's are below."""
    results = {BASE: result([0.5] * 40), "dpo": result([0.6] * 40), "sft": result([0.4] * 40)}
    about = {"judge": "oracle", "split": "test", "prompts": 40, "steps": None, "commit": "none"}
    found = study_results.summary(results, about, HOW)
    methods, *others = found["groups"]
    assert [claim["verdict"] for claim in methods["claims"]] == ["reproduced", "reproduced"]
    known = ("objectives", "seeds")
    assert {c["verdict"] for group in others for c in group["claims"] if group["name"] not in known} == {"not run yet"}
    (over_seeds, *_) = next(group["claims"] for group in others if group["name"] == "seeds")
    assert over_seeds["verdict"] == "can't be told" and ", 1 of 3 seeds" in over_seeds["lines"][0]["seen"]
    swapped = {BASE: results[BASE], "dpo": results["sft"], "sft": results["dpo"]}
    claims = study_results.summary(swapped, about, HOW)["groups"][0]["claims"]
    assert [claim["verdict"] for claim in claims] == ["not reproduced", "not reproduced"]
    assert "NOT REPRODUCED" in study_results.text(study_results.summary(swapped, about, HOW))


POLICIES = {
    "base": {"method": "none", "noise_seed": 0},
    "dpo": {"method": "dpo"},
    "sft": {"method": "sft"},
}


def make_project(folder: Path) -> Params:
    """Comparisons of the shapes world in all splits, encoded; in train every rater prefers the wrong drawing."""
    make_model(folder / "model")
    rows = {
        "train": [
            pickapic.row(n, "b", caption=caption, jpg_0=drawing(caption, n), jpg_1=pickapic.image(1000 + n))
            for n, caption in enumerate(CAPTIONS[:6])
        ],
        "test_unique": [
            pickapic.row(100 + n, "a", caption=caption, jpg_0=drawing(caption, n), jpg_1=pickapic.image(2000 + n))
            for n, caption in enumerate(CAPTIONS[6:])
        ],
    }
    rows["validation_unique"] = rows["test_unique"][4:]
    rows["test_unique"] = rows["test_unique"][:4]
    for name, found in rows.items():
        pickapic.write(folder / "raw" / f"{name}-00000-of-00001.parquet", found)
    values = make_params(folder, POLICIES, probe={"every": 1, "pairs": 2, "draws": 2})
    os.chdir(folder)
    ingest.run(values)
    precompute.run(values)
    return values


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Params, str]]:
    """A tiny project in which the runs of `feedback` have been made, two at a time."""
    folder, before = tmp_path_factory.mktemp("study"), Path.cwd()
    try:
        values = make_project(folder)
        yield folder, values, flow.run(values, ["feedback"], prompts=3, steps=2, jobs=2)
    finally:
        os.chdir(before)


@pytest.mark.slow
def test_a_study_end_to_end(made: tuple[Path, Params, str]) -> None:
    folder, _, text = made
    found = json.loads((folder / "metrics/study.json").read_text())
    assert set(found["runs"]) == {"dpo", "oracle_labels"}
    for name, row in found["runs"].items():
        assert row["wins"] + row["ties"] + row["losses"] == row["prompts"] == 3, name
        assert row["moved"] > 0
        assert row["accuracy"]["pairs"] == 4
        assert row["kl"] > 0 and row["training_seconds"] > 0
        assert row["alarms"] is not None and row["chosen"] == 2
        assert {"implicit_accuracy", "winner_change", "loser_change"} <= set(row["end"])
    feedback = next(group for group in found["groups"] if group["name"] == "feedback")
    assert feedback["claims"][0]["verdict"] in ("reproduced", "not reproduced", "can't be told")
    assert "DPO, the scorer's labels" in text and "claims wait for runs" in text


@pytest.mark.slow
def test_runs_on_a_model_that_made_no_image_are_left_out_and_said(
    made: tuple[Path, Params, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, values, _ = made
    monkeypatch.chdir(folder)
    job = study_job.Study(values, 3, 2, folder)
    assert flow.possible(job, ["dpo", "dpo_weaker", "oracle_labels"]) == ["dpo", "oracle_labels"]
    assert "of tiny-sd-weaker were compared: dpo_weaker" in capsys.readouterr().err
    with pytest.raises(UserError, match="no run is possible"):
        flow.possible(job, ["dpo_weaker", "sft_stronger"])


@pytest.mark.slow
def test_the_scorer_answers_the_training_comparisons_only(made: tuple[Path, Params, str]) -> None:
    folder, _, _ = made
    raters = comparisons.read(folder / "data/comparisons").to_pylist()
    scorer = comparisons.read(folder / "runs/study/oracle/data/comparisons").to_pylist()
    for before, after in zip(raters, scorer, strict=True):
        assert after["answer"] == "a"
        assert before["answer"] == ("b" if before["split"] == "train" else "a")
        assert ("answered by oracle" in after["flags"]) == (before["split"] == "train")


@pytest.mark.slow
def test_a_second_time_does_nothing(made: tuple[Path, Params, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, values, text = made
    monkeypatch.chdir(folder)

    def never(*_: object) -> None:
        raise AssertionError("this was made already")

    for module, name in ((study_runs.train, "run"), (study_runs.generate, "run"), (study_job.relabel, "relabel")):
        monkeypatch.setattr(module, name, never)
    before = (folder / "metrics/study.json").read_bytes()
    assert flow.run(values, ["feedback"], prompts=3, steps=2) == text
    assert (folder / "metrics/study.json").read_bytes() == before
    with pytest.raises(AssertionError, match="made already"):
        flow.run(values, ["feedback"], prompts=2, steps=2)


@pytest.mark.slow
def test_a_killed_run_isnt_trained_again(made: tuple[Path, Params, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after training: the note of it is there, the results aren't."""
    folder, values, text = made
    monkeypatch.chdir(folder)
    job = study_job.Study(values, 3, 2, folder)
    kept.file(job.kept, "dpo").unlink()
    monkeypatch.setattr(train, "run", lambda *_: pytest.fail("it was trained already"))
    assert flow.run(values, ["feedback"], prompts=3, steps=2) == text


def test_what_the_study_needs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = make_params(tmp_path, POLICIES)
    with pytest.raises(UserError, match="make demo"):
        flow.run(values)
    with pytest.raises(UserError, match=r"--only: expected some of methods, .* got nothing"):
        flow.run(values, ["nothing"])
    with pytest.raises(UserError, match=r"policies\.sft"):
        flow.run(make_params(tmp_path, {name: POLICIES[name] for name in ("base", "dpo")}))
    with pytest.raises(UserError, match="shapes world"):
        unjudged = {"alarms": values.evaluate.alarms.model_dump() | {"held_out": []}}
        flow.run(make_params(tmp_path, POLICIES, rewards={}, probe={"rewards": []}, evaluate=unjudged))


def test_numbers_of_the_listing() -> None:
    text = study_results.listing()
    assert f"{len(RUNS)} runs in all" in text
    assert all(group.title in text for group in STUDY)
    lines = text.splitlines()
    assert all(f"  run: {RUNS[name].label}" in lines for group in STUDY for name in group.runs), "labels have commas"


def test_an_estimate_is_the_mean_of_what_ran() -> None:
    assert np.isclose(flow.estimate([100, 200]), 150)


def test_the_report_is_made_again_once_the_pipeline_has_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`metrics`, a folder, is what the report depends on: DVC sees the study in it, though no stage made it."""
    monkeypatch.chdir(tmp_path)
    for file in (personal.OUT, flow.OUT):
        write_json(file, {"schema": 1})
    assert flow.remake_report().startswith("Written: metrics/study.json and metrics/personal.json; `dvc repro`")
    flow.OUT.unlink()
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        "  evaluate: {cmd: mkdir -p metrics && echo 1 > metrics/evaluate.json, outs: [metrics/evaluate.json]}\n"
        "  report: {cmd: mkdir -p reports && ls metrics > reports/report.html, deps: [metrics], outs: [reports]}\n"
    )
    assert flow.run_group([*flow.dag.DVC, "repro"], print) == 0
    write_json(flow.OUT, {"schema": 1})
    assert flow.remake_report() == "Report: reports/report.html"
    assert "study.json" in Path("reports/report.html").read_text()


def test_groups_on_rewards_are_made_only_where_they_are_asked_for(repo: Path) -> None:
    """Their runs may have their own way of making images."""
    parsed = study_job.Study(load(repo / "params.yaml"), 10, None, repo).params(["nft", "grpo"])
    assert parsed.generate.sampling("nft")["guidance"] == 1.0
    usual, asked = study.needed(flow.chosen([])), study.needed(flow.chosen(["rewards"]))
    assert "grpo" not in usual
    assert {group.name for group in flow.chosen(["rewards"])} >= {
        "rewards",
        "reward_hacking",
        "doodl",
        "curated",
        "rounds",
    }
    assert "grpo_seed_2" in asked
    assert {name for name in asked if study_job.needs_reward_model(RUNS[name])} >= {"refl", "draft_lv", "alignprop"}


def test_a_run_of_a_round_comes_after_the_run_whose_images_it_learns_from(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "assets").symlink_to(repo / "assets")
    job = study_job.Study(load(repo / "params.yaml"), study_job.PROMPTS, None, tmp_path)
    assert flow.waves(["round_2", "dpo", "at_once", "round_1"]) == [["dpo"], ["at_once", "round_1"], ["round_2"]]
    values = job.params(["round_2"])
    assert list(values.policies) == [BASE, "round_1", "round_2"]
    assert (values.policies["round_1"].init, values.policies["round_2"].init) == (
        "assets/tiny-sd",
        "models/policies/round_1",
    )
    assert values.rounds["round_2"].policy == "round_1"
    at_once, rounds = values.model_copy(update={"rounds": job.params(["at_once"]).rounds}), values.rounds
    budget = 2 * rounds["round_2"].prompts, 2 * (values.policies["round_2"].steps)
    assert (at_once.rounds["at_once"].prompts, job.policy("at_once")["steps"]) == budget
    kept.write(job.kept, "round_2", result([0.5], settings=job.settings("round_2")))
    assert list(job.results()) == ["round_2"]
    other = RUNS["round_1"].changes | {"steps": 7}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RUNS, "round_1", replace(RUNS["round_1"], changes=other))
        assert job.results() == {}  # what it learned from would be another policy's


@pytest.mark.slow
def test_rounds_end_to_end(made: tuple[Path, Params, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, values, _ = made
    monkeypatch.chdir(folder)
    monkeypatch.setattr(study, "needed", lambda groups: ["at_once", "round_1", "round_2"])  # the first of three seeds
    assert "DPO, two rounds" in flow.run(values, ["rounds"], prompts=3, steps=2, jobs=2)
    rounds = folder / "runs/study/all/data/rounds"
    found = {path.name: json.loads((path / "round.json").read_text()) for path in sorted(rounds.iterdir())}
    assert {name: (one["policy"], one["images"]) for name, one in found.items()} == {
        "at_once": (BASE, 18),  # there are 6 training prompts
        "round_1": (BASE, 18),
        "round_2": ("round_1", 18),
    }
