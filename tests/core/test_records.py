"""Our own JSON files: read through a model, and refused by a message that names file, place and stage."""

from pathlib import Path

import pytest
from pydantic import Field

from diffalign.core import records
from diffalign.core.errors import UserError
from diffalign.core.records import Record


class Row(Record):
    """One line."""

    name: str
    count: int
    share: float | None


class Table(Record):
    """A file."""

    version: int = Field(alias="schema")
    rows: list[Row]


TABLE = Table(schema=1, rows=[Row(name="a", count=2, share=0.5), Row(name="é", count=0, share=None)])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    records.write(tmp_path / "table.json", TABLE)
    records.write_lines(tmp_path / "rows.jsonl", TABLE.rows)
    assert '"schema": 1' in (tmp_path / "table.json").read_text()
    assert (tmp_path / "rows.jsonl").read_text().splitlines()[1] == '{"name": "é", "count": 0, "share": null}'
    assert records.read(tmp_path / "table.json", Table, "count") == TABLE
    assert records.read_lines(tmp_path / "rows.jsonl", Row, "count") == TABLE.rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema": 1}', "rows: field required"),
        ('{"schema": 1, "rows": [], "more": 2}', "more: extra inputs are not permitted, found 2"),
        ('{"schema": "1", "rows": []}', "schema: input should be a valid integer, found '1'"),
        ('{"schema": 1, "rows": [{"name": "a", "count": true, "share": 1}]}', "rows.0.count: .*, found true"),
        (
            '{"schema": 1, "rows": [{"name": "a", "count": 1, "share": NaN}]}',
            "rows.0.share: .*finite number, found nan",
        ),
        ('{"schema": 1, "rows": [', "invalid JSON: EOF"),
        ("[]", "an object"),
        ("", "invalid JSON"),
    ],
)
def test_a_damaged_file_is_named_with_place_and_stage(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"table\.json isn't as stage count left it.*{said}.*--single-item count`"):
        records.read(path, Table, "count")


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"name": "a", "count": 1, "share": null}\n{"name": "b", "count": 1}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl .*: line 2: share: field required"):
        records.read_lines(path, Row, "count@x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.json is missing: expected what stage count@x makes"):
        records.read(tmp_path / "gone.json", Table, "count@x")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="can't decode"):
        records.read(path, Table, "count")


def test_a_message_names_three_places_at_most(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text('{"schema": 1, "rows": [{}, {}]}')
    with pytest.raises(UserError, match=r"rows\.0\.name.*rows\.0\.share: field required; and 3 more\."):
        records.read(path, Table, "count")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a": 1, "b"', "can't be read"),
        (b"\xff\xfe{}", "can't be read"),
        (b"", "can't be read"),
        (b"[" * 100_000, "can't be read"),
        (b"[1, 2]", "with a, b, found"),
        (b"null", "with a, b, found"),
        (b'{"a": 1}', "found one without b"),
    ],
    ids=["cut", "not utf-8", "empty", "too deep", "a list", "null", "a key missing"],
)
def test_a_plain_object_that_is_damaged_names_its_file_and_the_remedy(
    tmp_path: Path, data: bytes, expected: str
) -> None:
    path = tmp_path / "note.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"note\.json.*{expected}.* Remove it\.$"):
        records.plain(path, ("a", "b"), "Remove it.")
    path.write_text('{"a": 1, "b": 2, "more": 3}')
    assert records.plain(path, ("a", "b"), "Remove it.") == {"a": 1, "b": 2, "more": 3}


def test_a_plain_object_without_wanted_keys_may_have_any(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    path.write_text('{"a": [1, null]}')
    assert records.plain(path, (), "Remove it.") == {"a": [1, None]}
    with pytest.raises(UserError, match=r"gone\.json can't be read: expected a JSON object, found .* Remove it\.$"):
        records.plain(tmp_path / "gone.json", (), "Remove it.")
