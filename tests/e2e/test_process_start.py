"""What a process imports: torch and the model libraries take seconds: what needs none has none."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffalign.core.files import write_json
from tests.helpers import pickapic
from tests.helpers.project import REPO, make_params
from tests.helpers.report_inputs import POLICIES, SETTINGS, write_inputs
from tests.helpers.study_results import made, made_personal

MODELS = {"torch", "diffusers", "transformers", "peft", "accelerate", "safetensors.torch"}
NEVER = {"scipy", "pandas", "mlflow", "prefect", "dvc"}
"""What no stage needs in the process that dvc starts, but those that load a model: diffusers imports scipy."""
SHARDING = {"torch.distributed.fsdp", "torch.distributed.tensor", "torch._dynamo", "sympy"}
PROGRAM = """
import runpy, sys
try:
    runpy.run_path("pipeline.py", run_name="__main__")
finally:
    print(sorted(sys.modules), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the command line, raw data, and all that the report reads."""
    folder = tmp_path_factory.mktemp("start") / "project"
    folder.mkdir()
    for name in ("pipeline.py", "dvc.yaml"):
        shutil.copy(REPO / name, folder)
    make_params(folder, POLICIES, report=SETTINGS)
    pickapic.write(folder / "raw" / "train-00000-of-00001.parquet", pickapic.rows(6))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_inputs(folder)
        write_json(Path("metrics/study.json"), made())
        write_json(Path("metrics/personal.json"), made_personal())
    return folder


def imported(project: Path, *command: str) -> set[str]:
    """The modules that a command of pipeline.py has imported when it ends, which it does without an error."""
    env = {**os.environ, "PYTHONPATH": str(REPO), "DIFFALIGN_TRACKING": "off"}
    code = ["-c", PROGRAM.replace("import runpy, sys", f"import runpy, sys; sys.argv[1:] = {list(command)!r}")]
    done = subprocess.run(
        [sys.executable, *code], cwd=project, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return set(ast.literal_eval(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    ("command", "allowed"),
    [
        ("--help", set()),
        ("show policies.dpo", set()),
        ("summary", set()),
        ("study --list", set()),
        ("stage report", set()),
        ("stage ingest", {"pandas"}),  # pyarrow imports it to make an array of a list
    ],
)
def test_what_needs_no_model_imports_none(project: Path, command: str, allowed: set[str]) -> None:
    assert imported(project, *command.split()) & (MODELS | NEVER | SHARDING) <= allowed


def test_the_process_that_starts_trainings_leaves_networks_to_its_workers() -> None:
    """It asks torch for devices; what loads, spreads or judges networks would delay each `train@` by seconds."""
    code = "import sys, stages.train; print(sorted(sys.modules))"
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    found = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=True
    )
    assert not set(ast.literal_eval(found.stdout)) & (MODELS - {"torch", "safetensors.torch"} | NEVER | SHARDING)
