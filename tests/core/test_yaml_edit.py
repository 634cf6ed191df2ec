"""Changing values of a YAML file in its text: everything else stays, character by character."""

import pytest

from diffalign.core import yaml_edit, yaml_file

TEXT = """# top
data:
  path: old/place   # where: "#" isn't a value
  settings:         # its own
    # patterns
    splits: {}
    more: [1,
      2]
  # behind
report: {title: "Old, one", best: 4}  # flow
"""


def test_values_change_and_all_else_stays():
    """A longer value takes from the spaces before its comment; a block becomes one line, its comments stay."""
    found = yaml_edit.changed(
        TEXT, {"data.path": "new/pla", "data.settings": {"splits": {"a-*": "hash"}}, "report.title": "yes"}
    )
    assert found == TEXT.replace("old/place   #", "new/pla     #").replace(
        "splits: {}\n    more: [1,\n      2]", "{splits: {a-*: hash}}"
    ).replace('"Old, one"', '"yes"')
    assert yaml_file.parse(found, "x") == {
        "data": {"path": "new/pla", "settings": {"splits": {"a-*": "hash"}}},
        "report": {"title": "yes", "best": 4},
    }


@pytest.mark.parametrize(
    "value",
    ["a: b", "it's #1", "a, b", "null", "1.0", "", " x ", "{", "*", "\u00e4\u2028b", 'q"', "x" * 200, 0.139, 3, True],
)
@pytest.mark.parametrize("path", ["data.path", "report.title"])
def test_any_value_is_read_again(path, value):
    section, key = path.split(".")
    assert yaml_file.parse(yaml_edit.changed(TEXT, {path: value}), "x")[section][key] == value


def test_a_key_that_a_section_lacks_is_added_at_its_end():
    found = yaml_edit.changed(TEXT, {"data.new": [1, 2], "report.new": None, "data.settings.splits.a": "hash"})
    assert found == TEXT.replace("      2]\n", "      2]\n  new: [1, 2]\n").replace(
        "best: 4}", "best: 4, new: null}"
    ).replace("splits: {}", "splits: {a: hash}")
    assert yaml_edit.changed("a:\n  b: 1  # last", {"a.c": 2}) == "a:\n  b: 1  # last\n  c: 2"


@pytest.mark.parametrize("path", ["nothing.x", "data.path.x", "data.settings.more.x"])
def test_a_section_that_isnt_there(path):
    with pytest.raises(KeyError):
        yaml_edit.changed(TEXT, {path: 1})
