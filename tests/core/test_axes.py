"""Entries of an axis are found by their files and loaded by their names."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffalign.core import axes
from diffalign.core.errors import UserError

FILES = {
    "__init__": '"""An axis."""',
    "method": "from diffalign.core import axes\ndef load(name):\n    return axes.load('axis', name)",
    "helper": "def pairs():\n    pass",
    "first": "def load(settings):\n    return settings + 1",
    "second": "class build:\n    pass",
    "broken": "import no_such_library\ndef load():\n    pass",
}


@pytest.fixture
def axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package `axis` with a protocol that loads by name, a helper, and three entries, one of them broken."""
    (tmp_path / "axis").mkdir()
    for name, text in FILES.items():
        (tmp_path / "axis" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "axis"]:
        del sys.modules[name]


@pytest.mark.usefixtures("axis")
def test_an_entry_is_the_module_of_its_name() -> None:
    assert axes.load("axis", "first").load(1) == 2
    assert axes.load("axis", "second").__name__ == "axis.second"


@pytest.mark.usefixtures("axis")
def test_names_are_those_of_the_entries() -> None:
    assert axes.names("axis") == ["broken", "first", "second"]


@pytest.mark.usefixtures("axis")
@pytest.mark.parametrize("name", ["third", "first.load", "", "../first", "no-name"])
def test_an_unknown_name_is_a_users_error_that_says_what_there_is(name: str) -> None:
    with pytest.raises(UserError, match="axis: expected one of broken, first, second; found ") as error:
        axes.load("axis", name)
    assert repr(name) in str(error.value)


@pytest.mark.usefixtures("axis")
def test_what_a_module_of_an_axis_lacks_is_not_taken_for_a_missing_module() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        axes.load("axis", "broken")
