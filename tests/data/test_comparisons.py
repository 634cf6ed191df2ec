"""Comparisons on disk, and the rule that makes pairs of them."""

import errno
import hashlib
import random
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffalign.core.errors import UserError
from diffalign.data.batches.pairs import Pair, make_pairs
from diffalign.data.comparisons import table as comparisons
from diffalign.data.comparisons import writer as comparison_writer
from diffalign.data.comparisons.table import COMPARISON_SCHEMA, Comparison
from diffalign.data.comparisons.writer import Reject, Writer


def one(number, answer="a", image_a="A", image_b="B", prompt="p", rater="r1", split="train"):
    return {
        "comparison_id": f"c{number}",
        "prompt": prompt,
        "image_a": image_a,
        "image_b": image_b,
        "answer": answer,
        "rater_id": rater,
        "source": "test",
        "model_a": None,
        "model_b": "m",
        "split": split,
        "flags": [],
        "created_at": datetime(2024, 1, 2, 3, 4, 5, 678901, UTC),
    }


def table(*rows):
    return pa.Table.from_pylist(list(rows), COMPARISON_SCHEMA)


def test_each_untied_answer_is_a_pair():
    rows = [
        one(3, "b", prompt="q"),
        one(1),
        one(2, "tie"),
        one(4, "both_bad"),
        one(5, "none"),
        one(6, split="test"),
        one(7, image_a="B", image_b="A"),
    ]
    expected = [
        Pair("c1", "p", "A", "B", 1.0, 1.0),
        Pair("c3", "q", "B", "A", 1.0, 1.0),
        Pair("c7", "p", "B", "A", 1.0, 1.0),
    ]
    assert make_pairs(table(*rows), "train") == expected
    random.Random(0).shuffle(rows)
    assert make_pairs(table(*rows), "train") == expected
    assert [pair.pair_id for pair in make_pairs(table(*rows), "test")] == ["c6"]
    assert make_pairs(table(*rows), "validation") == make_pairs(table(), "train") == []


def test_raters_are_filtered():
    rows = table(one(1, rater="r1"), one(2, rater="r2"), one(3, rater=None), one(4, rater="r3", split="test"))
    assert [p.pair_id for p in make_pairs(rows, "train", raters=["r2"])] == ["c2"]
    assert [p.pair_id for p in make_pairs(rows, "train", raters=["r1", "r2"])] == ["c1", "c2"]
    assert make_pairs(rows, "train", raters=["r3"]) == []
    assert [p.pair_id for p in make_pairs(rows, "train")] == ["c1", "c2", "c3"]
    with pytest.raises(UserError, match="r9"):
        make_pairs(rows, "train", raters=["r1", "r9"])


def test_majority_counts_the_votes_on_two_images():
    """Of A: 1 (c1), 0 on swapped sides (c2: A lost as b), tie ½ (c3), 1 (c4 as b): 2.5 of 4, so 0.625."""
    votes = [one(1, "a"), one(2, "a", "B", "A"), one(3, "tie"), one(4, "b", "B", "A")]
    assert make_pairs(table(*votes), "train", "majority") == [Pair("c1", "p", "A", "B", 0.625, 1.0)]
    swapped = [{**vote, "image_a": vote["image_b"], "image_b": vote["image_a"]} for vote in votes]
    assert make_pairs(table(*swapped), "train", "majority") == [Pair("c1", "p", "B", "A", 0.625, 1.0)]


def test_majority_leaves_out_what_has_none():
    rows = [
        one(1, "a"),
        one(2, "b"),  # one vote each
        one(3, "tie", prompt="q"),  # nothing but a tie
        one(4, "both_bad", prompt="r"),
        one(5, "none", prompt="r"),  # no votes
        one(6, "b", prompt="s"),
        one(7, "a", prompt="s", split="test"),  # another split's vote doesn't count
        one(8, "a", prompt="t", rater="x"),
        one(9, "b", prompt="t"),
    ]
    assert make_pairs(table(*rows), "train", "majority") == [Pair("c6", "s", "B", "A", 1.0, 1.0)]
    only_x = make_pairs(table(*rows), "train", "majority", raters=["x"])
    assert only_x == [Pair("c8", "t", "A", "B", 1.0, 1.0)]


def test_majority_of_single_votes_is_each():
    rng = random.Random(0)
    rows = [one(n, rng.choice(["a", "b", "tie"]), f"i{n}", f"j{n}", prompt=f"p{n % 7}") for n in range(100)]
    assert make_pairs(table(*rows), "train", "majority") == make_pairs(table(*rows), "train")


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


def test_weights_by_hand():
    """Prompt p has two pairs, q one: 1/2, 1/2, 1. Rater r1 has two, r2 one: 1/2, 1, 1/2; both: 1/4, 1/2, 1/2."""
    rows = table(one(1), one(2, rater="r2"), one(3, "b", prompt="q"), one(4, "tie", prompt="q"), one(5, split="test"))

    def weights(*by):
        found = make_pairs(rows, "train", weights=by)
        assert [pair.pair_id for pair in found] == ["c1", "c2", "c3"]
        return [pair.weight for pair in found]

    assert weights() == [1, 1, 1]
    assert weights("prompt") == pytest.approx([0.75, 0.75, 1.5])  # divided by their mean, 2/3
    assert weights("rater") == pytest.approx([0.75, 1.5, 0.75])
    assert weights("rater", "prompt") == weights("prompt", "rater") == pytest.approx([0.6, 1.2, 1.2])  # mean 5/12


def test_weights_by_strength():
    """Three votes to one: 2 * 0.75 - 1 = 1/2; one vote: 1. The mean is 3/4; the strengths stay."""
    votes = [*(one(n, "a") for n in (1, 2, 3)), one(4, "b"), one(5, prompt="q")]
    found = make_pairs(table(*votes), "train", "majority", weights=["strength"])
    assert [(pair.strength, pair.weight) for pair in found] == [(0.75, pytest.approx(2 / 3)), (1, pytest.approx(4 / 3))]


def test_weights_are_over_the_pairs_that_are_used():
    """Without r2, p has one pair as q has: nobody is weighed up or down."""
    rows = table(one(1), one(2, rater="r2"), one(3, prompt="q"))
    assert [p.weight for p in make_pairs(rows, "train", raters=["r1"], weights=["prompt"])] == [1, 1]
    assert make_pairs(rows, "test", weights=["prompt"]) == []


def test_a_weight_by_raters_needs_raters():
    rows = table(one(1), one(2, rater=None), one(3, "tie", rater=None))
    with pytest.raises(UserError, match=r"rater for every answer, 1 of 2 have none\. Take rater out of pairs\.weights"):
        make_pairs(rows, "train", weights=["rater"])
    assert len(make_pairs(rows, "train", raters=["r1"], weights=["rater"])) == 1
