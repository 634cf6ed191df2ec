"""docs/evaluate-json.md is what the schema says, and says something of every field."""

from tools import results_reference as reference


def test_the_page_is_up_to_date() -> None:
    expected = reference.page(reference.SCHEMA.read_text())
    assert reference.PAGE.read_text() == expected, "mend it: python -m tools.results_reference --write"


def test_every_field_is_explained() -> None:
    """By a docstring below it."""
    found = reference.records(reference.SCHEMA.read_text())
    assert {"Evaluation", "Comparison", "Alarm"} <= set(found)
    assert [f"{name}.{field}" for name, (_, _, own) in found.items() for field, _, meaning in own if not meaning] == []


def test_a_record_has_what_it_inherits() -> None:
    source = 'class A(Record):\n    """Base."""\n    x: int\n    """Ex."""\n\n\nclass Evaluation(A):\n    """All."""\n'
    source += '    version: int = Field(alias="schema")\n    """One | two."""\n'
    text = reference.page(source)
    assert "## Evaluation\n\nAll.\n\n| field | type | |\n|---|---|---|\n| `x` | `int` | Ex. |\n| `schema` |" in text
    assert "One &#124; two." in text
