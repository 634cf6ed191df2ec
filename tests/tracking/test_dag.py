"""dvc.yaml agrees with the stages and with params.yaml, and DVC can read it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from diffalign.core.errors import UserError
from diffalign.tracking import dag
from tools.closure import closure, definition, is_code, rewrite

FILE = Path(__file__).resolve().parents[2] / "dvc.yaml"
STAGES: dict[str, Any] = yaml.safe_load(FILE.read_text())["stages"]


@pytest.mark.parametrize("name", STAGES)
def test_code_dependencies_are_what_the_stage_imports(name: str) -> None:
    code = [dep for dep in definition(STAGES[name])["deps"] if is_code(dep)]
    assert code == closure(name), "mend dvc.yaml: python -m tools.closure --write"


def test_writing_again_changes_nothing() -> None:
    assert rewrite(FILE.read_text()) == FILE.read_text()


def test_each_stage_has_its_file_and_each_file_its_stage(repo: Path) -> None:
    assert {path.stem for path in (repo / "stages").glob("*.py")} - {"__init__"} == set(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_the_command_is_the_command_line(name: str) -> None:
    suffix = "@${key}" if "foreach" in STAGES[name] else ""
    assert definition(STAGES[name])["cmd"] == f"python pipeline.py stage {name}{suffix}"


@pytest.mark.parametrize("file", ["params.yaml", *(f"presets/{p.name}" for p in FILE.parent.glob("presets/*.yaml"))])
def test_every_param_is_in_the_file(repo: Path, file: str) -> None:
    params = yaml.safe_load((repo / file).read_text())
    for policy in params["policies"]:
        for name, stage in STAGES.items():
            for key in (param.replace("${key}", policy) for param in definition(stage)["params"]):
                assert dag.lookup(params, [key]), f"stage {name} depends on {key}, which {file} lacks"


def test_outs_of_policies_that_left_are_pointed_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dag.check_leftovers(["base"])
    for name in (
        "images/base/1.png",
        "images/old one/1.png",
        "curves/base.jsonl",
        "curves/gone.jsonl",
        "images/.gitignore",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    with pytest.raises(UserError, match=r"rm -r 'images/old one' curves/gone\.jsonl$"):
        dag.check_leftovers(["base"])


def test_dvc_reads_it(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo)
    policies = yaml.safe_load(Path("params.yaml").read_text())["policies"]
    expected = {
        full
        for name, stage in STAGES.items()
        for full in ([f"{name}@{policy}" for policy in policies] if "foreach" in stage else [name])
    }
    graph = dag.graph()
    assert set(graph) == expected
    for policy in policies:
        assert {"ingest", "precompute", "reference"} <= set(graph[f"train@{policy}"])
        assert f"train@{policy}" in graph[f"generate@{policy}"]
        assert f"generate@{policy}" in graph["evaluate"]


def test_outs_are_declared_for_the_mirror(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo)
    assert dag.declared("train@dpo")["outs"] == ["models/policies/dpo", "curves/dpo.jsonl"]
    assert "policies.dpo" in dag.declared("train@dpo")["params"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project with every way to import."""
    files = {
        "stages/__init__.py": "",
        "stages/one.py": """
from typing import TYPE_CHECKING
import diffalign.plain
from diffalign import errors
from diffalign.package import thing
if TYPE_CHECKING:
    from diffalign.checked import X
else:
    import diffalign.otherwise
def run():
    from diffalign.late import f
""",
        "diffalign/__init__.py": "",
        "diffalign/plain.py": "import torch",
        "diffalign/errors.py": "'diffalign.prose is no module here, nor is this sentence one'",
        "diffalign/package/__init__.py": "AXIS = {'a': 'diffalign.package.lazy'}",
        "diffalign/package/thing.py": "from . import sibling\nfrom ..up import g",
        "diffalign/package/lazy.py": "",
        "diffalign/package/sibling.py": "",
        "diffalign/package/unused.py": "",
        "diffalign/up.py": "import stages.one",
        "diffalign/late.py": "",
        "diffalign/checked.py": "",
        "diffalign/otherwise.py": "",
        "diffalign/prose.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_closure_follows_every_import_but_a_type_checkers(tree: Path) -> None:
    assert closure("one", tree) == [
        "diffalign/__init__.py",
        "diffalign/errors.py",
        "diffalign/late.py",
        "diffalign/otherwise.py",
        "diffalign/package/__init__.py",
        "diffalign/package/lazy.py",
        "diffalign/package/sibling.py",
        "diffalign/package/thing.py",
        "diffalign/plain.py",
        "diffalign/up.py",
        "stages/__init__.py",
        "stages/one.py",
    ]


def test_rewriting_keeps_data_comments_and_order(tree: Path) -> None:
    before = """# what this is
stages:
  one:
    cmd: python pipeline.py stage one
    deps:
    - raw            # data
    - stages/one.py
    - diffalign/gone.py
    - ${model.path}
    outs:
    - made
"""
    after = rewrite(before, tree)
    assert after.startswith("# what this is\nstages:\n")
    assert yaml.safe_load(after)["stages"]["one"]["deps"] == ["raw", "${model.path}", *closure("one", tree)]
    assert "- raw" in after and "# data" in after
    assert rewrite(after, tree) == after
