"""Names of runs say what changed since the run before."""

from diffalign.tracking import naming

TRAINING = {"lr": 4e-5, "steps": 300, "lora": {"rank": 8}}
DPO = {"method": "dpo", "beta": 1000, "steps": 200}


def of_dpo(**changes: object) -> dict[str, str]:
    """The texts of a training's params."""
    sections = {"policies.dpo": {**DPO, **changes}, "training": TRAINING, "pairs": {"rule": "each"}}
    return naming.texts(naming.run_params("train@dpo", sections))


def test_a_trainings_params_have_plain_names_and_the_policys_own_win() -> None:
    assert of_dpo() == {
        "pairs.rule": "each", "lr": "4e-05", "steps": "200", "lora.rank": "8", "method": "dpo", "beta": "1000",
    }  # fmt: skip
    untrained = naming.run_params("train@base", {"policies.base": {"method": "none"}, "training": TRAINING})
    assert untrained == {"method": "none"}, "what isn't trained takes nothing of training"
    assert naming.run_params("generate@dpo", {"generate": {"steps": 10}}) == {"generate": {"steps": 10}}


def test_a_policys_run_is_named_by_beta_and_by_what_changed() -> None:
    assert naming.of_stage("train@dpo", of_dpo(), None) == "dpo β 1000"
    assert naming.of_stage("train@dpo", of_dpo(beta=500), of_dpo()) == "dpo β 500"
    assert naming.of_stage("train@dpo", of_dpo(lr=2e-5), of_dpo()) == "dpo β 1000, lr 2e-05"
    assert naming.of_stage("train@sft", {"lr": "1"}, {"lr": "2"}) == "sft, lr 1"
    many = of_dpo(lr=1, steps=2, flip="pair", seed=3, lora=None)
    assert naming.of_stage("train@dpo", many, {**dict.fromkeys(many, "x")}).endswith(", 4 more")


def test_other_stages_keep_their_names() -> None:
    assert naming.of_stage("ingest", {"data.path": "a"}, None) == "ingest"
    assert naming.of_stage("generate@dpo", {"generate.steps": "20"}, {"generate.steps": "10"}) == (
        "generate@dpo, generate steps 20"
    )


def test_a_pipelines_run_is_named_by_what_changed_in_params() -> None:
    before = {"policies.base.method": "none", "policies.dpo.beta": "1000", "generate.steps": "10"}
    assert naming.of_pipeline(before, None) == "base, dpo"
    assert naming.of_pipeline({**before, "policies.dpo.beta": "500"}, before) == "dpo β 500"
    assert naming.of_pipeline({**before, "generate.steps": "20"}, before) == "generate steps 20"
    assert naming.of_pipeline({**before, "policies.sft.method": "sft"}, before) == "new: sft"
    assert naming.of_pipeline(before, {**before, "policies.sft.method": "sft"}) == "without sft"
    assert naming.of_pipeline(before, before) == "other data or code"
    assert naming.of_pipeline({"training.lr": "x" * 99}, {"training.lr": "1"}) == f"lr {'x' * 23}…"


def test_the_source_is_the_command_with_its_commit() -> None:
    tags = naming.source("train@dpo")
    assert tags["mlflow.source.name"] == "python pipeline.py stage train@dpo"
    assert len(tags.get("mlflow.source.git.commit", "0" * 40)) == 40
