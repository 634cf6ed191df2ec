"""docs/params.md has every param with its meaning."""

from diffalign.core import yaml_file
from tests.helpers.project import REPO
from tools import params_reference

TEXT = """# The file.

data:                       # where rows come from
  path: raw                 # a folder | or a file
  # Shares of prompts;
  # by hash.
  test: 0.05
rewards: {}                 # who scores
"""


def test_a_key_has_the_comment_behind_or_above_it() -> None:
    assert params_reference.rows(TEXT) == [
        ("data", "", "where rows come from"),
        ("data.path", "raw", "a folder | or a file"),
        ("data.test", "0.05", "Shares of prompts; by hash."),
        ("rewards", "{}", "who scores"),
    ]


def paths(value: dict[str, object], above: str = "") -> set[str]:
    """The dotted paths of all keys."""
    found = set()
    for key, inner in value.items():
        found |= {above + key} | (paths(inner, f"{above}{key}.") if isinstance(inner, dict) else set())
    return found


def test_every_param_has_a_meaning() -> None:
    """A key is explained where it is first; sections and the names of policies and rewards explain themselves."""
    rows = params_reference.rows((REPO / "params.yaml").read_text("utf-8"))
    listed, there = {path for path, _, _ in rows}, paths(yaml_file.read(REPO / "params.yaml"))
    inline = tuple(f"{path}." for path, value, _ in rows if value.startswith("{"))  # one row, keys and all
    assert listed <= there and all(path.startswith(inline) for path in there - listed)
    silent = {path for path, _, meaning in rows if not meaning}
    known = {path.rsplit(".", 1)[-1] for path, _, meaning in rows if meaning}
    named = ("policies.", "rewards.")
    silent = {path for path in silent if "." in path and not path.startswith(named)}
    assert not {path for path in silent if path.rsplit(".", 1)[-1] not in known}


def test_the_page_is_up_to_date() -> None:
    new = params_reference.page((REPO / "params.yaml").read_text("utf-8"))
    assert params_reference.PAGE.read_text("utf-8") == new, "mend it: python -m tools.params_reference --write"
