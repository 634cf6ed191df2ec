"""dvc.yaml agrees with the stages and with params.yaml, and DVC can read it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffalign.core.errors import UserError
from diffalign.tracking import dag
from tools.closure import REPO, SEVERAL, definition, is_code, rewrite, with_sources

FILE = Path(__file__).resolve().parents[2] / "dvc.yaml"
STAGES: dict[str, Any] = yaml.safe_load(FILE.read_text())["stages"]


def test_code_dependencies_are_what_the_stages_import() -> None:
    assert rewrite(FILE.read_text()) == FILE.read_text(), "mend dvc.yaml: python -m tools.closure --write"
    several = (REPO / SEVERAL).read_text()
    assert with_sources(several) == several, "mend several.py: python -m tools.closure --write"


def test_each_stage_has_its_file_and_each_file_its_stage(repo: Path) -> None:
    assert {path.stem for path in (repo / "stages").glob("*.py")} - {"__init__"} == set(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_the_command_is_the_command_line(name: str) -> None:
    suffix = "@${key}" if "foreach" in STAGES[name] else ""
    assert definition(STAGES[name])["cmd"] == f"python pipeline.py stage {name}{suffix}"


FILES = ["params.yaml", *(f"presets/{path.name}" for path in FILE.parent.glob("presets/*.yaml"))]


def expanded(params: dict[str, Any], kind: str) -> Iterator[tuple[str, str]]:
    """Each stage's name with its `deps` or `params`, with the templates filled in that name code."""
    for name, stage in STAGES.items():
        over = params[stage["foreach"][2:-1]] if "foreach" in stage else {"": {}}
        for key, item in over.items():
            known = {"key": key, "model.family": params["model"]["family"], "data.source": params["data"]["source"]}
            known |= {f"item.{name}": value for name, value in item.items()}
            for entry in definition(stage).get(kind, []):
                for template, value in known.items():
                    entry = entry.replace(f"${{{template}}}", str(value))
                yield f"{name}@{key}", entry


@pytest.mark.parametrize("file", FILES)
def test_every_param_is_in_the_file(repo: Path, file: str) -> None:
    params = yaml.safe_load((repo / file).read_text())
    for stage, key in expanded(params, "params"):
        assert dag.lookup(params, [key]), f"stage {stage} depends on {key}, which {file} lacks"


@pytest.mark.parametrize("file", FILES)
def test_every_file_of_code_is_there(repo: Path, file: str) -> None:
    """Also with the names of an axis's entries that params fill in: DVC runs no stage that lacks one."""
    params = yaml.safe_load((repo / file).read_text())
    for stage, path in expanded(params, "deps"):
        assert not is_code(path) or (repo / path).exists(), f"stage {stage} depends on {path}, which isn't there"


def test_outs_of_policies_that_left_are_pointed_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dag.check_leftovers(["base"], ["oracle"])
    for name in (
        "images/base/1.png",
        "images/old one/1.png",
        "curves/base.jsonl",
        "curves/gone.jsonl",
        "images/.gitignore",
        "metrics/scores/.gitkeep",
        "metrics/scores/oracle.json",
        "metrics/scores/oracle.jsonl",
        "metrics/scores/other.json",
        "curves/rewards/mine.jsonl",
        "metrics/rewards/mine.json",
        "metrics/rewards/gone.json",
        "data/rounds/r1/round.json",
        "data/rounds/r0/round.json",
        "data/samples/r0/manifest.json",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    with pytest.raises(
        UserError,
        match=r"rm -r 'images/old one' curves/gone\.jsonl metrics/scores/other\.json metrics/rewards/gone\.json "
        r"data/rounds/r0 data/samples/r0$",
    ):
        dag.check_leftovers(["base"], ["oracle"], ["mine"], ["r1"])


def test_dvc_reads_it(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo)
    params = yaml.safe_load(Path("params.yaml").read_text())
    policies = params["policies"]
    expected = {
        full
        for name, stage in STAGES.items()
        for full in ([f"{name}@{key}" for key in params[stage["foreach"][2:-1]]] if "foreach" in stage else [name])
    }
    graph = dag.graph()
    assert set(graph) == expected
    assert next(iter(graph)) == "check" and all(needs for name, needs in graph.items() if name != "check")
    for policy in policies:
        assert {"ingest", "precompute", "reference"} <= set(graph[f"train@{policy}"])
        assert f"train@{policy}" in graph[f"generate@{policy}"]
        assert f"generate@{policy}" in graph["score@oracle"]
    assert "ingest" in graph["reward@learned"] and "reward@learned" in graph["score@learned"]
    assert not {"reward@learned", "score@learned"} & set(graph["train@dpo"])
    order = list(graph)  # as the Prefect flow runs them
    assert (
        order.index("ingest") < order.index("reward@learned") < order.index("score@learned") < order.index("evaluate")
    )
    assert "score@oracle" in graph["evaluate"] and {"score@oracle", "evaluate"} <= set(graph["report"])


def test_outs_are_declared_for_the_mirror(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo)
    assert dag.declared("train@dpo")["outs"] == ["models/policies/dpo", "curves/dpo.jsonl"]
    assert "policies.dpo" in dag.declared("train@dpo")["params"]


def test_checksums_of_code_are_dvcs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dvc.yaml names files and folders of our code: a live run notes the checksums that dvc.lock will have for them."""
    monkeypatch.chdir(tmp_path)
    texts = {"diffalign/a.py": "x = 1\n", "diffalign/b/c.py": "", "diffalign/b/t/d.html": "<p>", "stages/s.py": "y"}
    for name, text in {**texts, "diffalign/b/__pycache__/c.pyc": "z"}.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    Path(".dvcignore").write_text("__pycache__/\n")
    Path("dvc.yaml").write_text(
        "stages:\n  s:\n    cmd: echo\n    deps: [diffalign/a.py, diffalign/b, diffalign, stages/s.py]\n"
    )
    subprocess.run([*dag.DVC, "repro", "-q"], check=True)
    expected = dag.checksums(dag.lock()["s"]["deps"])
    assert len(expected) == 4
    assert {path: dag.known()[path] for path in expected} == expected
