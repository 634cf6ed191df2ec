"""What tests of the report share."""

from pathlib import Path

import pytest

from diffalign.config.params import Params
from tests.helpers.project import make_params
from tests.helpers.report_inputs import POLICIES, SETTINGS, write_inputs


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The working folder with all that the report reads, and its params; a file may have a project of its own."""
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return make_params(tmp_path, POLICIES, report=SETTINGS)
