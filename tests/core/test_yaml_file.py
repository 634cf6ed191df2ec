"""One reader of YAML: version 1.2 in UTF-8, as DVC reads it, and quick to refuse what nobody writes by hand."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import parse_yaml

from diffalign.core import yaml_file
from diffalign.core.errors import UserError

SCALARS = ["0300", "0o300", "0x1F", "1_000", "3e-5", "2.0e-5", "1e6", ".5", "yes", "off", "~", "True", "190:20", ".inf"]


@pytest.mark.parametrize("scalar", SCALARS)
def test_a_value_is_what_dvc_takes_it_for(scalar: str) -> None:
    assert yaml_file.parse(f"a: {scalar}", "p") == parse_yaml(f"a: {scalar}", "p")


@pytest.mark.parametrize(("scalar", "expected"), [("0300", 300), ("3e-5", 3e-5), ("yes", "yes")])
def test_it_is_version_1_2(scalar: str, expected: object) -> None:
    assert yaml_file.parse(f"a: {scalar}", "p") == {"a": expected}


def test_the_locale_changes_nothing(tmp_path: Path, repo: Path) -> None:
    (tmp_path / "p.yaml").write_text("title: café ≥ β\n", "utf-8")
    code = (
        "import sys; from pathlib import Path; from diffalign.core import yaml_file;"
        "print(ascii(yaml_file.read(Path(sys.argv[1]))))"
    )
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(repo)}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "p.yaml"], env=environment, capture_output=True, text=True
    )
    assert done.stdout == ascii({"title": "café ≥ β"}) + "\n", done.stderr


@pytest.mark.parametrize("name", ["on", "Off", "y", "no", "true", "null", "7", "~"])
def test_a_name_that_some_reader_takes_for_something_else_is_to_be_quoted(name: str) -> None:
    with pytest.raises(UserError, match=f'^p, line 2: expected a name, got {name}, .*quote it: "{name}"'):
        yaml_file.parse(f"a: 1\n{name}: 2\n", "p")
    assert yaml_file.parse(f'"{name}": 2\n', "p") == {name: 2}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}], k{n}: 1}}\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n  lr: 5\n  lr: 6\n", r"line 3: the key 'lr' is there twice"),
        ("a: &x {b: 1}\n<<: *x\n<<: *x\n", r"line 3: the key '<<' is there twice"),
        ("a: [1,\n", r"line 2: while parsing a flow node"),
        ("a: &x 1\nb: &x 2\n", r"line 2: the anchor 'x' is there twice"),
        ("a: *gone\n", r"line 1: found undefined alias 'gone'"),
        ("? [a, b]\n: 1\n", r"line 1: expected a name before the colon, got a list"),
        ("a: !!python/object/apply:os.system [ls]\n", r"line 1: expected no tag, got .*os\.system: remove it"),
        ("a: !!int x\n", r"line 1: expected no tag, got tag:yaml\.org,2002:int"),
        ("a: !env HOME\n", r"line 1: expected no tag, got !env"),
        ("a: 2026-02-31\n", r"can't be read as YAML: day"),
        ("a: " + "9" * 5000, r"can't be read as YAML: Exceeds the limit"),
        ("a: \x00", r"can't be read as YAML: unacceptable character"),
        ("--- 1\n--- 2\n", r"line 2: expected a single document"),
        ("a: &x [1, *x]\n", r"line 1: expected a value, got an alias of what it stands in"),
        ("[" * 5000, r"line 1: expected at most 32 levels"),
        ("a: {" * 5000, r"line 1: expected at most 32 levels"),
        ("- " * 100_000, r"line 1: expected at most 32 levels"),
        (BOMB, r"line 5: expected at most 20,000 values"),
        (MERGES, r"line \d: expected at most 20,000 values"),
        ("- 1\n" * 120_000, r"expected at most 20,000 values"),
        ("{" + ", ".join(f"a{n}: 1" for n in range(30_000)) + "}", r"expected at most 20,000 values"),
    ],
    ids=lambda value: value[:24],
)
def test_what_no_file_of_settings_has_is_one_message_at_once(text: str, expected: str) -> None:
    start = time.process_time()
    with pytest.raises(UserError, match=expected) as error:
        yaml_file.parse(text, "p")
    assert len(str(error.value)) < 400
    assert time.process_time() - start < 20


def test_an_alias_and_a_merge_are_read() -> None:
    assert yaml_file.parse("a: &x {b: 1}\nc: {<<: *x, d: 2}\ne: *x\n", "p") == {
        "a": {"b": 1},
        "c": {"b": 1, "d": 2},
        "e": {"b": 1},
    }


@pytest.mark.parametrize("data", ["é".encode("latin-1"), "a: 1\n".encode("utf-16")])
def test_another_encoding_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(data)
    with pytest.raises(UserError, match=r"p\.yaml: expected UTF-8, got the byte 0x(e9|ff) at 0"):
        yaml_file.read(tmp_path / "p.yaml")


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "p.yaml").open("w") as file:
        file.writelines("# a comment\n" for _ in range(4_000_000))
    start = time.process_time()
    with pytest.raises(UserError, match=r"expected at most 500,000 bytes, got 48,000,000"):
        yaml_file.read(tmp_path / "p.yaml")
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "value",
    [
        {"b": [1, [0.4, 1.0]], "a": {"c": 1e-5, "d": None}, "e": [], "f": {}},
        {"on": "off", "true": "0300", "x": "~", "colon": "a: b # c", "long": "x " * 300, "lines": "a\nb\n", "é": "≥"},
        {"groups": {"large": ["1??", "?", "a ? b"], "x": "2??"}},
    ],
)
def test_what_is_written_is_read_again(value: Any) -> None:
    text = yaml_file.dump(value)
    assert yaml_file.parse(text, "p") == parse_yaml(text, "p") == value
    assert list(yaml_file.parse(text, "p")) == list(value)


def test_lists_are_written_on_one_line() -> None:
    assert yaml_file.dump({"a": {"b": [1, 2], "on": "y"}}) == 'a:\n  b: [1, 2]\n  "on": "y"\n'
