"""score and evaluate: counts that add up, ties for twins, what can't be scored left out, refusals of changed images."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffalign.config.load import parse
from diffalign.config.params import Params
from diffalign.config.rewards import pickscore
from diffalign.core.errors import UserError
from diffalign.data.batches.pairs import Pair, held_out_pairs
from diffalign.data.comparisons import table as comparisons
from diffalign.diffusion.timesteps import Times
from diffalign.evaluation import accuracies, alarms, policy_rewards, statistics
from diffalign.evaluation import implicit_reward as implicit
from diffalign.evaluation.results import Comparison, Evaluation
from diffalign.evaluation.scores import Scored
from diffalign.rewards import oracle
from stages import evaluate, generate, precompute, score, train
from tests.helpers import tiny_rewards
from tests.helpers.world import CAPTIONS, HOSTILE, make_world, publish_trained

POLICIES = {
    "base": {"method": "none", "noise_seed": 0},
    "twin": {"method": "none", "noise_seed": 0},
    "again": {"method": "none", "noise_seed": 1},
    "dpo": {"method": "dpo"},
    "sft": {"method": "sft"},
}
ROWS = set(Comparison.model_fields)
REWARDS = {"policy", "accuracy", "ci_low", "ci_high", "pairs", "ceiling"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A project up to evaluate: dpo has other weights than its reference, sft the very same ones."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        values = make_world(folder, POLICIES, [*CAPTIONS, *HOSTILE], generate={"prompts": 100, "seeds": 2})
        precompute.run(values)
        for name, weights in (("dpo", "model2"), ("sft", "model")):
            publish_trained(name, values.policies[name].model_dump(), folder / weights)
        for name in POLICIES:
            if POLICIES[name]["method"] == "none":
                train.run(values, name)
            generate.run(values, name)
        score.run(values, "oracle")
        evaluate.run(values)
    return folder, values


@pytest.fixture
def project(made: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A copy of it that a test may change."""
    shutil.copytree(made[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return made[1]


def results() -> dict[str, Any]:
    return json.loads(Path("metrics/evaluate.json").read_text())


def row(policy: str) -> dict[str, Any]:
    (found,) = [r for r in results()["comparisons"] if r["policy"] == policy]
    return found


def test_trained_policies_meet_head_to_head(project: Params) -> None:
    (found,) = results()["head_to_heads"]
    of = scores()
    pairs = [(of["dpo", file]["scores"]["oracle"], of["sft", file]["scores"]["oracle"]) for _, file in of if _ == "dpo"]
    judged = [(a, b) for a, b in pairs if a is not None and b is not None]
    assert (found["policy"], found["baseline"], set(found)) == ("dpo", "sft", ROWS)
    assert found["wins"] == sum(a > b for a, b in judged) and found["losses"] == sum(a < b for a, b in judged)
    assert found["wins"] + found["ties"] + found["losses"] == len(judged) > 0


def reward(policy: str) -> dict[str, Any]:
    (found,) = [r for r in results()["implicit_reward"] if r["policy"] == policy]
    return found


def scores() -> dict[tuple[str, str], dict[str, Any]]:
    lines = [json.loads(line) for line in Path("metrics/scores/oracle.jsonl").read_text().splitlines()]
    return {(line["policy"], line["file"]): line for line in lines}


def scored() -> Scored:
    return Scored.model_validate_json(Path("metrics/scores/oracle.json").read_text())


def held_out(values: Params) -> list[Pair]:
    table = comparisons.read(Path("data/comparisons"))
    return held_out_pairs(table, values.evaluate.split, values.pairs.rule, values.pairs.raters)


def changed(values: Params, **settings: Any) -> Params:
    return values.model_copy(update={"evaluate": values.evaluate.model_copy(update=settings)})


def test_scoring_again_scores_nothing_and_writes_the_same_bytes(
    project: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even after all is gone but the cache; an image that has changed is still noticed."""
    written = [Path("metrics/scores") / name for name in ("oracle.json", "oracle.jsonl")]
    before = [path.read_bytes() for path in written]

    def never(*_: object) -> None:
        raise AssertionError("an image was scored again")

    monkeypatch.setattr(oracle.Oracle, "scores", never)
    for path in written:
        path.unlink()
    score.run(project, "oracle")
    assert [path.read_bytes() for path in written] == before
    assert "scores were known (runs/scores/oracle.sqlite)" in capsys.readouterr().err
    entry = scores()["dpo", next(file for policy, file in scores() if policy == "dpo")]
    (Path("images/dpo") / entry["file"]).write_bytes(b"edited")
    with pytest.raises(UserError, match="has changed since it was generated"):
        score.run(project, "oracle")


def test_the_schema(project: Params) -> None:
    found = results()
    assert set(found) == {field.alias or name for name, field in Evaluation.model_fields.items()}
    assert found["schema"] == 3
    assert [(r["policy"], r["baseline"], r["scorer"]) for r in found["comparisons"]] == [
        (name, "base", "oracle") for name in ("twin", "again", "dpo", "sft")
    ]
    assert all(set(r) == ROWS for r in found["comparisons"])
    assert [r["policy"] for r in found["implicit_reward"]] == ["dpo", "sft"]
    assert all(set(r) == REWARDS for r in found["implicit_reward"])


def test_alarms_hold_every_policys_images_against_the_baselines(project: Params) -> None:
    """Twins are the baseline's images: nothing differs, so nothing is raised; thresholds of null are off."""
    found = results()["alarms"]
    assert {alarm["policy"] for alarm in found} == set(POLICIES) - {"base"}
    twin = {(alarm["name"], alarm["by"]): alarm for alarm in found if alarm["policy"] == "twin"}
    assert {name for name, _ in twin} == set(alarms.BEYOND) - {"hacking"}
    assert all(alarm["verdict"] != "raised" for alarm in twin.values())
    assert twin["diversity", "pixels, over prompts"]["figure"] == pytest.approx(1)
    assert twin["diversity", "pixels, over images of a prompt"]["figure"] == pytest.approx(1)
    assert twin["saturation", "pixels"]["figure"] == 0
    off = project.evaluate.alarms.model_copy(update=dict.fromkeys(alarms.BEYOND))
    evaluate.run(changed(project, alarms=off))
    assert results()["alarms"] == []


def test_counts_are_those_of_the_scores(project: Params) -> None:
    """Recounted from the scores, image by image, with plain Python."""
    lines = scores()
    for policy in ("twin", "again", "dpo", "sft"):
        tally: Counter[str] = Counter()
        for (name, file), line in lines.items():
            mine, base = line["scores"]["oracle"], lines["base", file]["scores"]["oracle"]
            if name == policy and mine is not None:
                tally["wins" if mine > base else "losses" if mine < base else "ties"] += 1
        found = row(policy)
        assert {key: found[key] for key in ("wins", "ties", "losses")} == {
            k: tally[k] for k in ("wins", "ties", "losses")
        }
        assert found["win_rate"] == pytest.approx((tally["wins"] + tally["ties"] / 2) / tally.total())
        assert found["ci_low"] <= found["win_rate"] <= found["ci_high"]
        assert (found["prompts"], found["seeds"]) == (len(CAPTIONS), 2)


def test_skills_are_the_means_of_the_scores(project: Params) -> None:
    """Of every policy, both skills that these captions ask for, over the images that could be asked."""
    lines = scores().values()
    found = {(r["policy"], r["skill"]): r for r in results()["skills"]}
    assert set(found) == {(name, skill) for name in project.policies for skill in ("object", "colour")}
    for (policy, skill), row in found.items():
        values = [v for o in lines if o["policy"] == policy and (v := o["scores"][f"oracle_{skill}"]) is not None]
        assert (row["images"], row["prompts"]) == (len(values), len(CAPTIONS))
        assert row["share"] == pytest.approx(sum(values) / len(values))
        assert row["ci_low"] <= row["share"] <= row["ci_high"]


def test_twins_from_the_same_noise_tie_everywhere(project: Params) -> None:
    found = row("twin")
    assert (found["wins"], found["ties"], found["losses"], found["win_rate"]) == (0, 2 * len(CAPTIONS), 0, 0.5)
    assert found["ci_low"] < 0.5 < found["ci_high"]  # not certainty


def test_what_cannot_be_scored_is_left_out_and_counted(project: Params, capsys: pytest.CaptureFixture[str]) -> None:
    lines = scores()
    assert len(lines) == 5 * 2 * (len(CAPTIONS) + len(HOSTILE))
    for line in lines.values():
        assert set(line) == {"policy", "file", "sha256", "prompt", "prompt_index", "seed", "scores"}
        known = {name for name, value in line["scores"].items() if value is not None}
        parts = {"oracle", "oracle_fidelity", "oracle_aesthetics", "oracle_object", "oracle_colour"}
        assert known == (set() if line["prompt"] in HOSTILE else parts)
    evaluate.run(project)
    left, asked = 2 * len(HOSTILE), 2 * (len(CAPTIONS) + len(HOSTILE))
    assert f"oracle can't judge {left} of {asked} images of dpo against base: left out" in capsys.readouterr().err


def test_a_policy_that_is_its_reference_agrees_half_of_the_time(project: Params) -> None:
    """Its rewards are zero: every pair is a tie, and a tie is half."""
    assert reward("sft")["accuracy"] == 0.5


def test_the_pairs_are_the_untied_held_out_ones(project: Params) -> None:
    pairs = held_out(project)
    table = comparisons.read(Path("data/comparisons"))
    untied = [r["comparison_id"] for r in table.to_pylist() if r["split"] == "test" and r["answer"] in ("a", "b")]
    assert sorted(pair.pair_id for pair in pairs) == sorted(untied)
    assert reward("dpo")["pairs"] == len(untied) == 14
    few = changed(project, pairs=5)
    score.run(few, "oracle")
    evaluate.run(few)
    assert [line.pair_id for line in scored().pairs] == [pair.pair_id for pair in pairs[:5]]
    assert reward("dpo")["pairs"] == 5


def test_the_ceiling_is_the_oracles_accuracy_on_the_same_labels(project: Params) -> None:
    """Image a is the right drawing everywhere; of the captions' 10 untied answers 8 say a. The rest it can't score."""
    assert reward("dpo")["ceiling"] is None
    found = scored()
    known = found.model_copy(update={"pairs": [pair for pair in found.pairs if pair.prompt in CAPTIONS]})
    assert accuracies.ceiling(known) == pytest.approx(0.8)
    assert accuracies.ceiling(None) is None
    assert accuracies.ceiling(found.model_copy(update={"pairs": []})) is None


def test_a_judges_accuracy_is_of_the_pairs_that_it_can_score(project: Params) -> None:
    (judge,) = results()["rewards"]
    assert (judge["name"], judge["version"], judge["range"]) == ("oracle", "2", [0.0, 1.0])
    assert (judge["accuracy"], judge["pairs"]) == (pytest.approx(0.8), 10)
    assert judge["ci_low"] < 0.8 < judge["ci_high"]


def test_it_says_how_the_images_were_made(project: Params) -> None:
    found = results()["images"]
    assert set(found) == set(POLICIES)
    for name in POLICIES:
        assert found[name]["sampler"] == {"name": "dpmpp_2m", "spacing": "trailing"}
        made = {"steps": 2, "guidance": 4.0, "resolution": 64, "dtype": "float32", "noise_seed": int(name == "again")}
        assert {key: found[name][key] for key in made} == made


def test_a_policy_may_have_started_from_a_trained_one(project: Params) -> None:
    """`sft` has the base's weights, in a folder with nothing but its denoiser: as an init it is the same reference."""
    pairs = held_out(project)[:4]
    later = project.policies["dpo"].model_copy(update={"init": "models/policies/sft"})
    values = project.model_copy(update={"policies": {**project.policies, "dpo": later}})
    expected = evaluate.measured(project, pairs)["dpo"]
    assert np.array_equal(evaluate.measured(values, pairs)["dpo"], expected)


def test_the_reference_is_computed_once(project: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[np.ndarray] = []
    errors = implicit.errors

    def counted(*args: Any, **options: Any) -> np.ndarray:
        calls.append(errors(*args, **options))
        return calls[-1]

    monkeypatch.setattr(implicit, "errors", counted)
    pairs = held_out(project)
    found = evaluate.measured(project, pairs)
    assert len(calls) == 3
    np.testing.assert_allclose(found["dpo"], (calls[0] - calls[1]).mean(axis=1))
    assert (found["dpo"] != 0).all() and (found["sft"] == 0).all()
    results = statistics.outcomes(*found["dpo"].T)
    assert reward("dpo")["accuracy"] == pytest.approx(results.mean())


def test_a_policy_is_judged_on_the_timesteps_of_its_objective(project: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies with different ranges need a reference each, and their figures differ."""
    ranges: list[tuple[float, float]] = []
    errors = implicit.errors

    def watched(*args: Any, times: Times, **options: Any) -> np.ndarray:
        ranges.append((times.low, times.high))
        return errors(*args, times=times, **options)

    monkeypatch.setattr(implicit, "errors", watched)
    pairs = held_out(project)[:4]

    def rewards(dpo: tuple[float, float], sft: tuple[float, float]) -> np.ndarray:
        spans = {"dpo": dpo, "sft": sft}
        trained = {n: project.policies[n].model_copy(update={"timesteps": span}) for n, span in spans.items()}
        values = project.model_copy(update={"policies": {**project.policies, **trained}})
        return evaluate.measured(values, pairs)["dpo"]

    full = rewards((0, 1), (0, 1))
    assert ranges == [(0, 1)] * 3
    bounded = rewards((0.5, 1), (0, 1))
    assert ranges[3:] == [(0.5, 1)] * 2 + [(0, 1)] * 2
    assert not np.allclose(bounded, full)


def test_references_are_kept_between_calls(project: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the study does, whose runs have one reference: the second policy measures itself only."""
    calls: list[np.ndarray] = []
    errors = implicit.errors

    def counted(*args: Any, **options: Any) -> np.ndarray:
        calls.append(errors(*args, **options))
        return calls[-1]

    monkeypatch.setattr(implicit, "errors", counted)
    pairs = held_out(project)[:3]
    settings = {"family": "sd15", "model": "model", "policies": Path("models/policies"), "shards": Path("data/shards")}
    setting = policy_rewards.Setting(
        **settings, resolution=64, pairs=pairs, draws=2, seed=0, batch_size=8, device="cpu"
    )
    kept: dict[Any, np.ndarray] = {}
    apart = {
        name: policy_rewards.rewards({name: project.policies[name]}, setting, kept)[name] for name in ("dpo", "sft")
    }
    assert (len(calls), len(kept)) == (3, 1)
    together = policy_rewards.rewards({name: project.policies[name] for name in ("dpo", "sft")}, setting)
    assert all(np.array_equal(apart[name], together[name]) for name in together)


def test_without_judges_the_rest_is_there(project: Params) -> None:
    evaluate.run(project.model_copy(update={"rewards": {}}))
    assert results()["comparisons"] == [] and results()["rewards"] == []
    assert reward("dpo")["ceiling"] is None
    assert reward("dpo")["accuracy"] is not None


def test_without_held_out_pairs_the_accuracy_is_missing(project: Params, capsys: pytest.CaptureFixture[str]) -> None:
    without = changed(project, split="validation")
    score.run(without, "oracle")
    evaluate.run(without)
    assert results()["rewards"][0]["accuracy"] is None
    assert reward("dpo") == {
        "policy": "dpo", "accuracy": None, "ci_low": None, "ci_high": None, "pairs": 0, "ceiling": None
    }  # fmt: skip
    assert "the validation split has no untied comparison" in capsys.readouterr().err


MADE = ("evaluate.json", "scores/oracle.json", "scores/oracle.jsonl")


def test_the_same_input_gives_the_same_bytes(project: Params) -> None:
    before = [Path("metrics", name).read_bytes() for name in MADE]
    score.run(project, "oracle")
    evaluate.run(project)
    assert [Path("metrics", name).read_bytes() for name in MADE] == before


def test_an_unknown_reward_is_named(project: Params) -> None:
    for name in (None, "clip"):
        with pytest.raises(UserError, match=rf"score@{name}: expected one of the rewards \['oracle'\]"):
            score.run(project, name)


def test_a_changed_image_is_refused(project: Params) -> None:
    path = Path("images/dpo/00001-0.png")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"00001-0.png has changed since it was generated.*generate@dpo"):
        score.run(project, "oracle")


def test_a_missing_image_is_refused(project: Params) -> None:
    Path("images/dpo/00001-0.png").unlink()
    with pytest.raises(UserError, match=r"00001-0.png can't be read \(No such file"):
        score.run(project, "oracle")


def test_scores_of_other_images_or_pairs_are_refused(project: Params) -> None:
    """Outs that were pulled apart: each file is sound, but they are of different runs."""
    with pytest.raises(UserError, match=r"oracle\.json .*expected the scores of evaluate's pairs.*score@oracle"):
        evaluate.run(changed(project, pairs=5))
    manifest = json.loads(Path("images/dpo/manifest.json").read_text())
    manifest["images"][0]["sha256"] = manifest["images"][1]["sha256"]
    Path("images/dpo/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"oracle\.jsonl doesn't have the scores of these images \(dpo/00000-0\.png"):
        evaluate.run(project)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda m: m["images"].pop(), "different prompts or seeds"),
        (lambda m: m["images"][0].update(prompt="another"), "different prompts or seeds"),
        (lambda m: m["images"][0].update(file="../base/00000-0.png"), "outside its folder"),
        (lambda m: m["images"][0].pop("seed"), r"images.0.seed: field required.*--single-item generate@dpo"),
        (lambda m: m.pop("images"), "images: field required"),
    ],
)
def test_a_foreign_manifest_is_refused(project: Params, break_it: Any, message: str) -> None:
    path = Path("images/dpo/manifest.json")
    manifest = json.loads(path.read_text())
    break_it(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=message):
        evaluate.run(project)


def test_shards_of_another_model_are_refused(project: Params) -> None:
    config = Path("model/vae/config.json")
    config.write_text(config.read_text() + "\n")
    with pytest.raises(UserError, match="made with another model"):
        evaluate.run(project)


def test_a_reward_with_weights_judges_beside_the_oracle(
    project: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image has its score, hostile prompts' too; twins tie; what was cut stands beside the score."""
    tiny_rewards.shrink(monkeypatch)
    settings = pickscore.Settings(
        path=str(tiny_rewards.make("pickscore", tmp_path / "weights")), batch_size=3, sha256=None
    )
    values = project.model_copy(update={"rewards": {**project.rewards, "pickscore": settings}})
    score.run(values, "pickscore")
    evaluate.run(values)
    lines = [json.loads(line) for line in Path("metrics/scores/pickscore.jsonl").read_text().splitlines()]
    assert {tuple(line["scores"]) for line in lines} == {("pickscore", "pickscore_tokens_cut")}
    assert all(line["scores"]["pickscore"] is not None for line in lines)
    assert len({line["scores"]["pickscore"] for line in lines}) > 2
    assert [judge["name"] for judge in results()["rewards"]] == ["oracle", "pickscore"]
    (twin,) = [r for r in results()["comparisons"] if (r["policy"], r["scorer"]) == ("twin", "pickscore")]
    assert twin["ties"] == len([line for line in lines if line["policy"] == "twin"])


@pytest.mark.slow
def test_images_on_which_a_reward_decided_are_judged_as_any_and_marked(project: Params) -> None:
    """The win rate says what differs, and that the judge is in-family; the other policies' figures stay."""
    raw = project.model_dump(mode="json")
    raw["generate"]["overrides"] = {"again": {"best_of": {"reward": "oracle", "n": 3}}}
    raw["policies"]["again"]["noise_seed"] = 0  # as the base's, but the reward chooses the noise
    before, values = results(), parse(raw)
    generate.run(values, "again")
    score.run(values, "oracle")
    evaluate.run(values)
    (own,) = [row for row in results()["comparisons"] if row["policy"] == "again"]
    assert own["differs"] == ["rules"] and own["in_family"] and not own["same_noise"]
    assert own["win_rate"] > next(row["win_rate"] for row in before["comparisons"] if row["policy"] == "again")
    assert results()["policies"]["again"]["families"] == ["oracle", "shapes"]
    assert results()["images"]["again"]["forwards"] == 3 * results()["images"]["base"]["forwards"]
    (twin,) = [row for row in results()["comparisons"] if row["policy"] == "twin"]
    assert twin["differs"] == [] and not twin["in_family"]
