"""A training run as it's typed: mypy sees a misspelt key, and a file that isn't a run is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffalign.core.errors import UserError
from diffalign.training.spec import read
from tests.helpers.project import REPO

SNIPPET = """
from diffalign.config.methods.dpo import Settings
from diffalign.training.spec import Spec


def spelt(run: Spec, own: Settings) -> tuple[float, str, float]:
    return run.policy.lr, run.machine.precision, own.beta


def misspelt(run: Spec, own: Settings) -> tuple[float, str, float]:
    return run.policy.learning_rate, run.machine.precison, own.bta
"""


def test_mypy_sees_a_misspelt_key(tmp_path: Path) -> None:
    """Of a policy, of the machine, and of a method's own settings: three errors, all in one line."""
    (tmp_path / "snippet.py").write_text(SNIPPET)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(REPO / "pyproject.toml"),
        "--follow-imports",
        "silent",
    ]
    command += ["--cache-dir", str(tmp_path / "cache"), str(tmp_path / "snippet.py")]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 3, done.stdout + done.stderr
    assert all(line.split(":")[1] == "11" for line in errors)
    assert [line.split('has no attribute "')[1].split('"')[0] for line in errors] == [
        "learning_rate",
        "precison",
        "bta",
    ]


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"policy": {"method": "sft"}})])
def test_a_file_that_isnt_a_run_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "spec.json").write_text(text)
    with pytest.raises(UserError, match="expected a training run as the stage writes it"):
        read(tmp_path / "spec.json")
