"""The stages where a user's machine isn't as ours: left-over launcher variables, another disk, what a kill left."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffalign.core import files
from stages import ingest, precompute, reference, train
from tests.helpers import disks
from tests.helpers.launchers import LEFTOVERS
from tests.helpers.project import make_inputs, make_params

POLICIES = {"base": {"method": "none"}, "sft": {"method": "sft", "steps": 1}}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project whose data/ and models/ are links into another file system, as on a machine with a large disk.

    Where there is only one they lead into a folder beside the project, and tests/core/test_publishing.py says so.
    """
    monkeypatch.chdir(tmp_path)
    for name, value in LEFTOVERS.items():
        monkeypatch.setenv(name, value)
    before = os.umask(0o022)
    with disks.elsewhere(tmp_path) as disk:
        for name in ("data", "models"):
            target = (disk or tmp_path.parent / f"{tmp_path.name}-disk") / name
            target.mkdir(parents=True)
            Path(name).symlink_to(target)
        make_inputs(tmp_path)
        yield tmp_path
    os.umask(before)


def test_the_stages_up_to_training(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training in one process doesn't wait for others; outs get to the other disk whole, readable, and alone."""
    values = make_params(project, POLICIES, reference={"draws": 1})
    ingest.run(values)
    precompute.run(values)
    write = files.write_json

    def killed(path: Path, value: object) -> None:
        """Leaves what a SIGKILL leaves while the reference's manifest is written; the next attempt goes on."""
        if path.name == "manifest.json" and "reference" in str(path):
            files.temporary_name(path).write_text("half")
            (path.parent / ".tmpYy9t6C").write_text("safetensors' own")
        write(path, value)

    monkeypatch.setattr("diffalign.reference.cache.write_json", killed)
    reference.run(values)
    train.run(values, "base")
    train.run(values, "sft")
    shown = {path.name for path in Path("data/reference").iterdir()}
    assert shown == {"manifest.json", "errors.safetensors"}
    left = [path for folder in ("data", "models", "curves") for path in Path(folder).resolve().rglob(".*")]
    assert not left
    published = [path for path in Path("models/policies").rglob("*") if path.is_file()]
    assert {path.suffix for path in published} == {".json", ".safetensors"}
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in published} == {"0o644"}


def test_a_policy_that_no_longer_trains_keeps_no_weights(project: Path) -> None:
    values = make_params(project, POLICIES)
    stale = Path("models/policies/base/unet/diffusion_pytorch_model.safetensors")
    stale.parent.mkdir(parents=True)
    stale.write_text("of an earlier method")
    train.run(values, "base")
    assert [path.name for path in Path("models/policies/base").rglob("*")] == ["policy.json"]
