"""Changes the files of a data set as accidents and strangers do: bytes, columns, fields, members of archives.

Every function takes a seeded generator and changes a folder in place; it says what it did. A change of bytes may give
other valid data, which nobody can notice; a change of structure mustn't.
"""

import csv
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ODD_TEXT = ["", " ", "\0", "é" * 3, "\u202e\u200bx", "a\ud800b", "x" * 50_000, "../../etc/passwd", "null", "\n"]
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2**63,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [None, None],
    [[1], [2]],
    {"rank": {}},
    *ODD_TEXT,
]
"""Values of every type that JSON can spell, each wrong somewhere."""


def of_bytes(rng: random.Random, folder: Path) -> str:
    """Flips bits, overwrites, removes or repeats bytes of a file, or cuts it short."""
    path = chosen(rng, folder)
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data)) if data else 0
    kind = rng.choice(["flip", "overwrite", "remove", "repeat", "cut"])
    if kind == "flip":
        for _ in range(rng.choice([1, 1, 1, 8])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "overwrite":
        data[start : start + 40] = rng.randbytes(40)
    elif kind == "remove":
        del data[start : start + rng.choice([1, 16, 512])]
    elif kind == "repeat":
        data[start:start] = data[start : start + rng.choice([1, 16, 512])]
    else:
        del data[start:]
    path.write_bytes(data)
    return f"{kind} at {start} of {path.relative_to(folder)}"


def of_structure(rng: random.Random, folder: Path) -> str:
    """Changes a file of rows as its kind allows, or loses an image."""
    path = chosen(rng, folder)
    said = STRUCTURED.get(path.suffix, of_file)(rng, path)
    return f"{said} in {path.relative_to(folder)}"


def of_file(rng: random.Random, path: Path) -> str:
    """Loses an image's file, or leaves something else in its place."""
    kind = rng.choice(["lost", "folder", "link", "empty"])
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/etc/hostname")
    elif kind == "empty":
        path.touch()
    return kind


def of_json(rng: random.Random, path: Path) -> str:
    """Drops or renames a field, gives it an odd value, or puts something else for the row."""
    text = path.read_text()
    lines = path.suffix == ".jsonl"
    rows = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    if not isinstance(rows, list):
        return of_file(rng, path)  # an object: what a data set says of itself
    row = rng.randrange(len(rows))
    key = rng.choice([*sorted(rows[row]), "prompt"])
    kind = rng.choice(["drop", "rename", "odd", "odd", "inside", "row"])
    value = rng.choice([rng.choice(ODD), rng.choice(ODD_TEXT)])
    if kind in ("drop", "rename"):
        taken = rows[row].pop(key)
        rows[row] |= {f"{key}s": taken} if kind == "rename" else {}
    elif kind == "inside" and isinstance(rows[row][key], list) and rows[row][key]:
        rows[row][key][rng.randrange(len(rows[row][key]))] = value
    elif kind == "row":
        rows[row] = value
    else:
        rows[row][key] = value
    path.write_text("".join(json.dumps(one) + "\n" for one in rows) if lines else json.dumps(rows))
    return f"{kind} {key} of row {row}: {value!r:.20}"


def of_csv(rng: random.Random, path: Path) -> str:
    """Puts an odd text into a cell, or loses, adds or exchanges cells of a line; or loses a column."""
    rows = list(csv.reader(io.StringIO(path.read_text())))
    row, column = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
    kind = rng.choice(["odd", "odd", "lost", "more", "column"])
    if kind == "odd":
        rows[row][column] = rng.choice(ODD_TEXT).encode("utf-8", "replace").decode()
    elif kind == "lost":
        del rows[row][column]
    elif kind == "more":
        rows[row].insert(column, "x")
    else:
        for one in rows:
            del one[column]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return f"{kind} {column} of line {row}"


def of_parquet(rng: random.Random, path: Path) -> str:
    """Drops, renames, doubles or empties a column, gives it another type, or an odd value in one row."""
    table = pq.read_table(path)
    place = rng.randrange(table.num_columns)
    name, column = table.column_names[place], table.column(place)
    kind = rng.choice(["drop", "rename", "double", "null", "retype", "odd", "odd", "odd"])
    if kind == "drop":
        table = table.remove_column(place)
    elif kind == "rename":
        table = table.rename_columns([f"{one}s" if one == name else one for one in table.column_names])
    elif kind == "double":
        table = table.append_column(name, column)
    elif kind == "null":
        table = table.set_column(place, name, pa.nulls(len(table), column.type))
    elif kind == "retype":
        others = [
            pa.array([value] * len(table)) for value in (7, [b"x"], "1")
        ]  # not of a like type: another valid value
        number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        other = rng.choice([one for one in others if one.type != column.type and not (number and one is others[0])])
        table = table.set_column(place, name, other)
    else:
        row = rng.randrange(len(table))
        values = column.to_pylist()
        values[row] = odd_of(rng, column.type)
        table = table.set_column(place, name, array(values, column.type))
        kind = f"odd {values[row]!r:.20} in row {row} of"
    pq.write_table(table, path)
    return f"{kind} {name}"


def odd_of(rng: random.Random, kind: pa.DataType) -> Any:
    """A value of a type that makes no sense there; text may be no UTF-8."""
    if pa.types.is_string(kind):
        return rng.choice([None, b"\xff\xfe", *(text.encode("utf-8", "surrogatepass") for text in ODD_TEXT)])
    if pa.types.is_integer(kind):
        return rng.choice([None, -1, 0, 2**62])
    if pa.types.is_timestamp(kind):
        return rng.choice([None, -(2**62), 2**62])
    if pa.types.is_floating(kind):
        return rng.choice([None, -1.0, 2.0, float("nan"), float("inf"), 3e38])
    if pa.types.is_binary(kind):
        return rng.choice([None, b"", b"x", b"\x89PNG\r\n\x1a\n"])
    if pa.types.is_struct(kind):
        return rng.choice([None, {field.name: None for field in kind}])
    if pa.types.is_list(kind):
        return rng.choice([None, [], [None], ["", "both_bad", "image_3"]])
    return None


def array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """The values as an array; of text, bytes stay as they are, UTF-8 or not."""
    if not pa.types.is_string(kind):
        return pa.array(values, kind)
    raw = [one.encode() if isinstance(one, str) else one for one in values]
    binary = pa.array(raw, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(binary), binary.buffers(), binary.null_count)


def of_tar(rng: random.Random, path: Path) -> str:
    """Loses, doubles, renames or empties a member, or makes it a link or an odd text."""
    with tarfile.open(path) as tar:
        members = [(one, tar.extractfile(one).read()) for one in tar]  # type: ignore[union-attr]
    place = rng.randrange(len(members))
    member = members[place][0]
    kind = rng.choice(["lost", "double", "rename", "empty", "link", "text"])
    said = f"{kind} {member.name}"
    if kind == "lost":
        del members[place]
    elif kind == "double":
        members.insert(place, members[place])
    elif kind == "rename":
        member.name = rng.choice(["../../x.jpg", "7", "0.label_0.txt", "a/0.jpg_0.jpg", "é.txt"])
    elif kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
        members[place] = member, b""
    else:
        odd = b"" if kind == "empty" else rng.choice([b"\xff", b"nan", b"1e999", b"0.3", b"x" * 10_000])
        members[place] = member, odd
    with tarfile.open(path, "w") as tar:
        for one, content in members:
            one.size = len(content)
            tar.addfile(one, io.BytesIO(content))
    return said


STRUCTURED: dict[str, Callable[[random.Random, Path], str]] = {
    ".csv": of_csv,
    ".json": of_json,
    ".jsonl": of_json,
    ".parquet": of_parquet,
    ".tar": of_tar,
}


def chosen(rng: random.Random, folder: Path) -> Path:
    """One of a folder's files; of its rows in half of the cases."""
    found = files(folder)
    of_rows = [one for one in found if one.suffix in (*STRUCTURED, ".arrow", ".zip")]
    return rng.choice(of_rows if of_rows and rng.random() < 0.5 else found)


def files(folder: Path) -> list[Path]:
    """All files below a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
