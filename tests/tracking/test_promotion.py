"""Promotion into a real MLflow store on SQLite: through the gate only, once for the same weights, and back."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffalign.config.params import Params
from diffalign.core import records
from diffalign.core.errors import UserError
from diffalign.evaluation import results, verdicts
from diffalign.generation import gallery
from diffalign.tracking import dag, promotion
from diffalign.tracking.mlflow_store import Store
from stages import generate, train
from tests.evaluation.test_gate import comparison, figures
from tests.helpers.world import make_world, publish_trained

POLICIES = {"base": {"method": "none"}, "dpo": {"method": "dpo"}, "sft": {"method": "sft"}}
SAMPLER = {"name": "ddim", "eta": 0.0, "spacing": "leading"}
LOCK = """
stages:
  ingest:
    params: {params.yaml: {data: {path: raw}}}
    outs: [{path: data/comparisons, md5: 0123456789abcdef0123456789abcdef.dir}]
"""
FRESH = """
import sys
import mlflow, numpy, torch
from diffusers import StableDiffusionPipeline
folder = mlflow.artifacts.download_artifacts("models:/shapes@champion")
pipeline = StableDiffusionPipeline.from_pretrained(folder)
pipeline.set_progress_bar_config(disable=True)
settings = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 4.0}
noise = torch.from_numpy(numpy.load("noise.npy"))
image = pipeline(sys.argv[1], latents=noise, output_type="np", **settings).images[0]
numpy.save("stock.npy", image)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A project up to the gate, which dpo passes and sft doesn't."""
    folder = tmp_path_factory.mktemp("promotion")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        values = make_world(folder, POLICIES, generate={"prompts": 1, "sampler": SAMPLER})
        train.run(values, "base")
        for name, weights in (("dpo", "model2"), ("sft", "model")):
            publish_trained(name, values.policies[name].model_dump(), folder / weights)
        generate.run(values, "dpo")
        records.write(results.FILE, figures(comparison("dpo"), comparison("sft", low=0.3)).evaluation)
        records.write(verdicts.FILE, ruled(dpo="passed", sft="failed"))
        Path("dvc.lock").write_text(LOCK)
    return folder, values


def ruled(**policies: str) -> verdicts.Verdicts:
    """A gate file in which one condition gave these verdicts."""
    ruling = {"name": "win rate", "figure": 0.7, "low": 0.6, "high": 0.8, "threshold": 0.5, "note": ""}
    found = [
        {"policy": name, "verdict": verdict, "rulings": [ruling | {"verdict": verdict}]}
        for name, verdict in policies.items()
    ]
    return verdicts.Verdicts.model_validate({"schema": 1, "baseline": "base", "policies": found})


@pytest.fixture
def project(made: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(made[0])
    return made[1]


def wanted(policy: str, alias: str = "champion") -> promotion.Wanted:
    return promotion.Wanted(policy, "shapes", alias, "sd15", Path("model"))


def register(policy: str, alias: str = "champion") -> str:
    """What `promote` does once results are up to date and the gate has spoken."""
    return promotion.register(wanted(policy, alias), promotion.gate_of(policy), Store())


def versions(store: Store) -> list[Any]:
    return sorted(store.client.search_model_versions("name = 'shapes'"), key=lambda v: int(v.version))


@pytest.mark.slow
def test_the_champion_makes_our_image_in_a_fresh_process(
    project: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the registry's address alone, by stock diffusers, with generate's noise; also after the project moved."""
    from diffalign.generation.pipeline import initial_noise

    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # the project's own
    shutil.copytree(".", tmp_path / "before")
    monkeypatch.chdir(tmp_path / "before")
    assert "models:/shapes@champion is dpo, version 1" in register("dpo")
    assert "version 1" in register("dpo"), "the same weights aren't copied again"
    store = Store()
    (version,) = versions(store)
    files = [path for path in Path(".mlflow/artifacts").rglob("*") if path.is_file()]
    assert files and {path.stat().st_mode & 0o044 for path in files} == {0o044}, "others can read them"
    logged = store.client.get_logged_model(version.source.removeprefix("models:/"))
    assert version.tags[promotion.GATE] == "passed" and str(logged.status) == "READY"
    assert {m.key: (m.value, m.dataset_name) for m in logged.metrics}["win_rate"] == pytest.approx((0.7, "raw"))
    run = store.client.get_run(version.run_id)
    assert [m.model_id for m in run.outputs.model_outputs] == [logged.model_id]
    shown = gallery.read(Path("images/dpo"))
    (entry,) = shown.entries
    monkeypatch.chdir((tmp_path / "before").rename(tmp_path / "after"))
    Store()
    np.save("noise.npy", initial_noise(0, entry.prompt, entry.seed, (4, 8, 8))[None].numpy())
    address = {"MLFLOW_TRACKING_URI": f"sqlite:///{Path('.mlflow/mlflow.db').resolve()}"}
    environment = os.environ | address | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run([sys.executable, "-c", FRESH, entry.prompt], env=environment, check=True)
    stock = np.load("stock.npy") * 255
    assert np.abs(stock - shown.pixels(entry)).max() <= 1.01 and stock.std() > 5


def test_the_gate_keeps_the_champion_and_the_way_back_too(project: Params) -> None:
    """sft may be the challenger, but its version doesn't become the champion by going back to it either."""
    register("dpo")
    with pytest.raises(UserError, match="champion stays where it is") as refused:
        promotion.check_gate("sft", promotion.gate_of("sft"))
    assert "failed  win rate" in str(refused.value)
    with pytest.raises(UserError, match="baseline"):
        promotion.check_gate("base", promotion.gate_of("base"))
    register("sft", "challenger")
    numbers = {version.tags[promotion.POLICY]: int(version.version) for version in versions(Store())}
    with pytest.raises(UserError, match="has the verdict failed"):
        promotion.go_back("shapes", "champion", numbers["sft"], "")
    assert "sft, version" in promotion.go_back("shapes", "trial", numbers["sft"], "")
    assert f"dpo, version {numbers['dpo']}" in promotion.go_back("shapes", "champion", numbers["dpo"], "")
    with pytest.raises(UserError, match="expected one of the versions"):
        promotion.go_back("shapes", "champion", 99, "")
    with pytest.raises(UserError, match="--alias"):
        promotion.check_alias("v1")


def test_what_differs_from_the_lock_is_found_but_for_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage `gate` behind another: an edit of its code isn't told, one of params, data and outs is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    for name in ("stages/a.py", "data", "params.yaml"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("x: 1\n")
    Path("dvc.yaml").write_text(
        "stages:\n  a:\n    cmd: cp data made\n    deps: [data, stages/a.py]\n    params: [x]\n    outs: [made]\n"
        "  gate:\n    cmd: cp made verdict\n    deps: [made]\n    outs: [verdict]\n"
    )
    subprocess.run([*dag.DVC, "repro", "-q"], check=True, capture_output=True)
    assert dag.out_of_date("gate") == []
    Path("stages/a.py").write_text("edited")
    assert dag.out_of_date("gate") == []
    Path("params.yaml").write_text("x: 2\n")
    Path("verdict").unlink()
    Path("verdict").write_text("passed")
    assert dag.out_of_date("gate") == ["a: params.yaml", "gate: verdict"]
