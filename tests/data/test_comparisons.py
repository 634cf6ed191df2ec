"""Comparisons on disk: written, read, refused where damaged."""

import errno
import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffalign.core.errors import UserError
from diffalign.data.comparisons import table as comparisons
from diffalign.data.comparisons import writer as comparison_writer
from diffalign.data.comparisons.table import Comparison
from diffalign.data.comparisons.writer import Reject, Writer
from tests.helpers.comparison_rows import one, table


def test_prompts_are_distinct_and_by_hash():
    rows = table(*(one(n, prompt=f"prompt {n % 5}") for n in range(20)), one(99, prompt="other", split="test"))
    expected = sorted((f"prompt {n}" for n in range(5)), key=lambda p: hashlib.sha256(p.encode()).hexdigest())
    assert comparisons.prompts(rows, "train") == expected
    assert comparisons.prompts(rows, "test") == ["other"] and comparisons.prompts(rows, "validation") == []


def sha(data):
    return hashlib.sha256(data).hexdigest()


def comparison(number, **changes):
    row = one(number, **changes)
    return Comparison(**{**row, "flags": tuple(row["flags"])})


def write(folder, datas=(b"one", b"two", b"three")):
    with Writer(folder) as writer:
        writer.add(comparison(1))
        writer.reject(Reject("f.parquet", 7, "no_label", "why"))
        for data in datas:
            writer.add_image(sha(data), data, 4, 3, "PNG")
    return folder


def test_what_is_written_is_read(tmp_path):
    folder = write(tmp_path / "out")
    assert comparisons.read(folder).to_pylist() == table(one(1)).to_pylist()
    rejects = pq.read_table(folder / "rejects.parquet").to_pylist()
    assert rejects == [{"file": "f.parquet", "row": 7, "reason": "no_label", "detail": "why"}]
    stored = pq.read_table(folder / "images-00000.parquet")
    assert stored.schema == comparisons.IMAGE_SCHEMA
    about = {"width": 4, "height": 3, "format": "PNG"}
    assert stored.slice(0, 1).to_pylist() == [{"sha256": sha(b"one"), "bytes": b"one", **about}]
    assert list(comparisons.iter_images(folder)) == [(sha(d), d) for d in (b"one", b"two", b"three")]


def test_images_are_found_across_files_and_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison_writer, "FILE_BYTES", 50)
    monkeypatch.setattr(comparison_writer, "ROW_GROUP_BYTES", 20)
    datas = [bytes([n]) * 9 for n in range(20)] + [bytes(99)]
    folder = write(tmp_path / "out", datas)
    files = sorted(folder.glob("images-*.parquet"))
    assert len(files) == 5 and pq.ParquetFile(files[0]).num_row_groups == 2
    wanted = {sha(datas[n]) for n in (17, 3, 20)}
    assert list(comparisons.iter_images(folder, wanted)) == [(sha(datas[n]), datas[n]) for n in (3, 17, 20)]
    assert wanted == {sha(datas[n]) for n in (17, 3, 20)}
    assert len(list(comparisons.iter_images(folder))) == 21 and list(comparisons.iter_images(folder, set())) == []
    with pytest.raises(UserError, match=r"1 of the 2 images .* aren't there, zzz"):
        list(comparisons.iter_images(folder, {"zzz", sha(datas[0])}))


def test_equal_input_gives_equal_bytes(tmp_path):
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    names = sorted(path.name for path in first.iterdir())
    assert names == ["comparisons.parquet", "images-00000.parquet", "rejects.parquet"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_damage_is_found(tmp_path):
    folder = write(tmp_path / "out", [b"image " * 50])
    path = folder / "images-00000.parquet"
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"image ") + 4] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="damaged"):
        list(comparisons.iter_images(folder))
    for name in ("images-00000.parquet", "comparisons.parquet"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-9])
    with pytest.raises(UserError, match="can't be read"):
        list(comparisons.iter_images(folder))
    with pytest.raises(UserError, match=r"can't be read.*dvc repro"):
        comparisons.read(folder)
    with pytest.raises(UserError, match=r"missing.*dvc repro"):
        comparisons.read(tmp_path)
    pq.write_table(pa.table({"a": [1]}), folder / "comparisons.parquet")
    with pytest.raises(UserError, match="expected the columns comparison_id"):
        comparisons.read(folder)


def test_a_flipped_bit_in_a_comparison_is_found(tmp_path):
    folder = tmp_path / "out"
    with Writer(folder) as writer:
        for n in range(200):
            writer.add(comparison(n, prompt=sha(bytes([n]))))
    path = folder / "comparisons.parquet"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 3] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="can't be read"):
        comparisons.read(folder)


def test_an_error_inside_leaves_nothing(tmp_path):
    folder = write(tmp_path / "out")
    with pytest.raises(KeyError), Writer(folder) as writer:
        writer.add(comparison(1))
        writer.add_image(sha(b"x"), b"x", 1, 1, "PNG")
        assert all(path.name.startswith(".") and path.suffix == ".tmp" for path in folder.iterdir())
        raise KeyError
    assert not folder.exists()


class FullDisk:
    """A file on a disk with room for so many bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 3, 100, 1500])
def test_a_full_disk_is_the_users_to_mend(tmp_path, monkeypatch, room):
    monkeypatch.setattr(comparison_writer, "ROW_GROUP_BYTES", 1000)
    monkeypatch.setattr("builtins.open", lambda *arguments, real=open: FullDisk(real(*arguments), room))
    with pytest.raises(UserError, match="No space left"):
        write(tmp_path / "out", [bytes([n]) * 700 for n in range(5)])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("answer", "A", "answer: expected a, b, tie, both_bad, none, found 'A'"),
        ("split", "val", "split: expected train, validation, test, found 'val'"),
        ("prompt", None, "prompt: expected text in every row, 1 have none"),
        ("answer", None, "answer: expected text in every row"),
        ("comparison_id", None, "comparison_id: expected text in every row"),
    ],
)
def test_an_edited_table_is_named_with_its_stage(tmp_path, column, value, words):
    pq.write_table(table(one(1), one(2) | {column: value}), tmp_path / "comparisons.parquet")
    with pytest.raises(UserError, match=f"{words}.*dvc repro --force ingest"):
        comparisons.read(tmp_path)
