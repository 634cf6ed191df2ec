"""Published data sets: each row of a copy in the exact schema has the disposition that was derived by hand."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from diffalign.config.load import parse
from diffalign.core.errors import UserError
from diffalign.data.comparisons import table as comparisons
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import json_rows, source
from diffalign.data.sources.source import Candidate
from stages import ingest
from tests.helpers import published
from tests.helpers.project import REPO
from tests.helpers.published import FIXTURES, picture


def read(name, folder, **settings):
    """Writes a fixture and reads it: (source, candidates, rejects' codes)."""
    kind, given, write = FIXTURES[name]
    write(folder)
    return entries(kind, folder, given | settings)


def entries(kind, folder, settings):
    opened = source.load(kind, folder, settings)
    found = [entry for batch in opened.records() for entry in batch]
    assert len(found) == opened.rows
    rejects = [entry for entry in found if isinstance(entry, Reject)]
    assert {reject.reason for reject in rejects} <= set(opened.reasons)
    return opened, [entry for entry in found if isinstance(entry, Candidate)], [reject.reason for reject in rejects]


def shown(candidate):
    return candidate.bytes_a, candidate.bytes_b, candidate.answer


def winner(candidate):
    return {"a": candidate.bytes_a, "b": candidate.bytes_b}[candidate.answer]


@pytest.mark.parametrize("name", FIXTURES)
def test_fixtures_are_read_whole(name, tmp_path):
    """Ids differ, images are those that were written, prompts that claim a split are those of the rows."""
    kind, given, write = FIXTURES[name]
    images = write(tmp_path)
    opened, found, _ = entries(kind, tmp_path, given)
    assert len({one.comparison_id for one in found}) == len(found) > 0
    assert {data for one in found for data in (one.bytes_a, one.bytes_b)} - {b""} <= images
    assert {(one.prompt, one.split) for one in found if one.split} <= set(opened.claims())
    again = entries(kind, tmp_path, given)[1]
    assert found == again


def ingested(kind, settings):
    """Runs ingest on the folder raw; returns its metrics."""
    raw = yaml.safe_load((REPO / "params.yaml").read_text())
    raw["data"] |= {"source": kind, "path": "raw", "validation": 0.0, "test": 0.0, "settings": settings}
    raw["data"]["max_rejects"] = 1.0
    ingest.run(parse(raw))
    return json.loads(Path("metrics/ingest.json").read_text())


@pytest.mark.parametrize("name", FIXTURES)
def test_fixtures_go_through_ingest(name, tmp_path, monkeypatch):
    """Every entry is a comparison or a reject; the images that are stored are the fixture's, byte for byte."""
    monkeypatch.chdir(tmp_path)
    kind, given, write = FIXTURES[name]
    images = write(Path("raw"))
    metrics = ingested(kind, given)
    assert metrics["rows"] == metrics["comparisons"] + metrics["rejected"]
    stored = dict(comparisons.iter_images(Path("data/comparisons")))
    assert set(stored.values()) <= images and len(stored) == metrics["images"] > 1 and metrics["comparisons"] > 1
    assert set(comparisons.read(Path("data/comparisons"))["source"].to_pylist()) == {kind}


def test_hpdv3s_splits_are_kept_apart(tmp_path, monkeypatch):
    """Its train.json has prompts and images of its test.json: of three train rows one has neither."""
    monkeypatch.chdir(tmp_path)
    published.put(Path("raw"), [f"{n}.png" for n in range(8)])
    row = {"prompt": "held out", "path1": "0.png", "path2": "1.png"}
    published.as_json(Path("raw/test.json"), [row])
    train = [row | {"prompt": "Held  out", "path1": "2.png", "path2": "3.png"}, row | {"prompt": "x", "path2": "4.png"}]
    train.append({"prompt": "y", "path1": "5.png", "path2": "6.png"})
    published.as_json(Path("raw/train.json"), train)
    metrics = ingested("hpdv3", {})
    assert metrics["rejects"] == {"prompt_in_other_split": 1, "image_in_other_split": 1}
    assert metrics["splits"] == {"train": 1, "validation": 0, "test": 1}


def test_hpdv2(tmp_path):
    """Train: the preferred side. Test: 3 comparisons a rater, u2's first two images tie; 1 of the mean ranking."""
    _, found, rejects = read("hpdv2", tmp_path)
    assert rejects == []
    test, train = found[:7], found[7:]
    assert [shown(one) for one in train] == [(picture(0), picture(1), "a"), (picture(2), picture(3), "b")]
    assert {one.split for one in test} == {"test"} and {one.split for one in train} == {"train"}
    assert [one.answer for one in test] == ["a", "a", "a", "tie", "a", "a", "b"]
    assert [one.rater_id for one in test] == ["u1"] * 3 + ["u2"] * 3 + [None]
    assert Counter(Counter(one.ranking for one in test).values()) == {3: 2, 1: 1}
    assert [one.ranking for one in train] == [None, None]


def test_hpdv2_refuses_orders_for_ranks(tmp_path):
    """Ranks 1, 3, 2 as an order of images 0, 2, 1 agree; 3, 1, 2 and its inverse 2, 3, 1 don't."""
    published.hpdv2(tmp_path)
    row = json.loads((tmp_path / "test.json").read_text())[0]
    row |= {"rank": [1, 2, 3], "raw_annotations": [{"rank": [3, 2, 1], "user_hash": "u"}]}
    short = row | {"raw_annotations": [{"rank": [1, 2], "user_hash": "u"}, {"rank": [1, 2, 3], "user_hash": "v"}]}
    published.as_json(tmp_path / "test.json", [row, short])
    _, found, rejects = entries("hpdv2", tmp_path, {})
    assert rejects == ["ranks_disagree", "bad_ranking"] and len(found) == 2 + 3


def test_hpdv3(tmp_path):
    """path1 wins wherever it's shown; 12 and 16 of 19 votes: the larger number is path1's, in whichever place."""
    opened, found, rejects = read("hpdv3", tmp_path)
    assert rejects == ["low_confidence"]
    by_prompt = {one.prompt[-1]: one for one in found}
    for number, one in by_prompt.items():
        assert winner(one) == picture(2 * int(number))
        assert (one.model_a, one.model_b) == (("flux", "real_images") if one.answer == "a" else ("real_images", "flux"))
    shares = {n: max(one.share, 1 - one.share) if one.share is not None else None for n, one in by_prompt.items()}
    assert shares == {"0": 12 / 19, "1": 16 / 19, "2": None, "4": None, "5": None}
    assert {n: one.votes for n, one in by_prompt.items()} == {"0": 19, "1": 19, "2": None, "4": None, "5": None}
    assert all(one.share is None or (one.share > 0.5) == (one.answer == "a") for one in found)
    assert dict(opened.claims()) == {f"a scene, number {n}": "test" if n == 5 else "train" for n in range(6)}


def test_sides_dont_say_who_won(tmp_path):
    """Of 200 pairs about half have the winner as a; a pair the other way round has its images on the same sides."""
    pairs = [{"prompt": f"p{n}", "path1": f"{n % 20}.png", "path2": f"{20 + n // 10}.png"} for n in range(200)]
    published.put(tmp_path, [f"{n}.png" for n in range(40)])
    published.as_json(tmp_path / "train.json", pairs)
    _, found, _ = entries("hpdv3", tmp_path, {})
    assert 70 < sum(one.answer == "a" for one in found) < 130
    published.as_json(tmp_path / "train.json", [row | {"path1": row["path2"], "path2": row["path1"]} for row in pairs])
    _, turned, _ = entries("hpdv3", tmp_path, {})
    assert [one.bytes_a for one in turned] == [one.bytes_a for one in found]
    assert all(one.answer != other.answer for one, other in zip(found, turned, strict=True))


@pytest.mark.parametrize("zipped", [True, False])
def test_imagereward(zipped, tmp_path):
    """Ranks 1, 2, 2 of one prompt: the first beats both others, which tie. Ranks 2, 1: the second wins."""
    published.imagereward(tmp_path, zipped)
    _, found, rejects = entries("imagereward", tmp_path, {})
    assert rejects == ["alone"]
    assert [shown(one) for one in found] == [
        (picture(0), picture(1), "a"),
        (picture(0), picture(3), "a"),
        (picture(1), picture(3), "tie"),
        (picture(2), picture(4), "b"),
    ]
    assert [one.ranking for one in found] == ["imagereward-001-0001"] * 3 + ["imagereward-001-0002"]
    assert {(one.split, one.share) for one in found} == {("train", None)}


def test_open_image_preferences(tmp_path):
    """The chosen image wins, and isn't always a."""
    _, found, _ = read("open_image_preferences", tmp_path)
    assert [winner(one) for one in found] == [picture(2 * n) for n in range(6)]
    assert {one.answer for one in found} == {"a", "b"}
    assert all((one.model_a == "dev") == (one.answer == "a") for one in found)


def test_open_image_results(tmp_path):
    """Every submitted answer is one rater's comparison; images are read below the folder by their addresses' paths."""
    _, found, rejects = read("open_image_results", tmp_path)
    assert rejects == ["not_submitted", "no_label"]
    assert [one.answer for one in found] == ["a", "b", "tie", "both_bad"]
    assert [one.rater_id for one in found] == ["r0", "r1", "r0", "r0"]
    assert [one.bytes_a for one in found] == [picture(0), picture(0), picture(2), picture(4)]


def test_rapidata(tmp_path):
    """20 of 26 votes; a tie; 0 of 26; nobody voted."""
    _, found, rejects = read("rapidata", tmp_path)
    assert rejects == ["bad_answer"]
    said = [(one.answer, one.share, one.votes, one.axis) for one in found]
    assert said == [("a", 20 / 26, 26, "coherence"), ("tie", 0.5, 26, "coherence"), ("b", 0.0, 26, "coherence")]


def test_rapidata_by_country(tmp_path):
    """Of each pair those for image 1 are from IN and the others don't say: each group has a comparison of its own."""
    _, found, rejects = read("rapidata_groups", tmp_path)
    assert rejects == ["bad_details"]
    said = [(one.row, one.answer, one.votes, one.rater_group) for one in found]
    assert said == [
        (0, "a", 20, "in"),
        (0, "b", 6, None),
        (1, "a", 13, "in"),
        (1, "b", 13, None),
        (2, "b", 26, None),
    ]


def test_rapidata_axes(tmp_path):
    """A comparison for each axis that is there; without details the number of votes isn't known."""
    _, found, _ = read("rapidata_axes", tmp_path)
    said = [(one.answer, one.share, one.votes, one.axis) for one in found]
    assert said == [
        ("a", 0.75, 10, "preference"),
        ("tie", None, None, "alignment"),
        ("b", 0.25, 10, "preference"),
        ("tie", None, None, "alignment"),
    ]


def test_pickapic_urls(tmp_path):
    """Images are beside, by uid; where none was fetched the error says what to do."""
    _, found, rejects = read("pickapic_urls", tmp_path)
    assert rejects == [] and [one.answer for one in found] == ["a", "b", "tie", "a"]
    assert [(one.bytes_a, one.bytes_b) for one in found][:3] == [(picture(2 * n), picture(2 * n + 1)) for n in range(3)]
    assert (found[3].bytes_a, found[0].rater_id) == (b"", "0")
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    (tmp_path / "images").rmdir()
    with pytest.raises(UserError, match=r"Fetch each image_0_url and image_1_url to images/UID\.jpg"):
        entries("pickapic_urls", tmp_path, {})


def test_pickapic_webdataset(tmp_path):
    """Keys repeat and are no ids; 0 and 0 is no answer; nothing but the five files is looked at."""
    _, found, rejects = read("pickapic_webdataset", tmp_path)
    assert rejects == ["bad_answer"]
    assert [(shown(one), one.prompt) for one in found] == [
        ((picture(0), picture(1), "a"), "a boat, number 0 0"),
        ((picture(2), picture(3), "b"), "a boat, number 0 1"),
        ((picture(4), picture(5), "tie"), "a boat, number 1 0"),
    ]


def test_a_damaged_tar_isnt_read_as_a_short_one(tmp_path):
    """Python's tarfile takes a damaged or missing header for the end."""
    published.pickapic_webdataset(tmp_path)
    path = tmp_path / "00000.tar"
    whole = path.read_bytes()
    at = whole.rindex(b"1.label_1.txt")
    path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    with pytest.raises(UserError, match=r"00000\.tar: not a tar, damaged or cut short: .*the end of a tar"):
        entries("pickapic_webdataset", tmp_path, {})
    path.write_bytes(whole[:at])
    with pytest.raises(UserError, match=r"00000\.tar: not a tar, damaged or cut short"):
        entries("pickapic_webdataset", tmp_path, {})


@pytest.mark.parametrize(("kind", "archive"), [("hpdv2", "train.tar.gz"), ("hpdv3", "images.tar.gz.aa")])
def test_images_that_are_still_packed(kind, archive, tmp_path):
    """The error has the command; a folder that is there is taken for the images."""
    (tmp_path / "train.json").write_text("[{}]")
    (tmp_path / archive).touch()
    with pytest.raises(UserError, match=rf"the images are still in {archive}.*Unpack them first: cd .* tar -xz"):
        entries(kind, tmp_path, {})
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="no row has"):
        entries(kind, tmp_path, {})


def test_half_a_character_in_json_is_a_reject(tmp_path):
    """JSON may spell half a surrogate pair, which no file can hold; in a model's name it's replaced."""
    published.hpdv3(tmp_path)
    rows = json.loads((tmp_path / "train.json").read_text())
    published.as_json(tmp_path / "train.json", [rows[0] | {"prompt": "a\ud800"}, rows[1] | {"model1": "\ud800x"}])
    _, found, rejects = entries("hpdv3", tmp_path, {})
    assert rejects == ["caption_not_text"] and {found[-1].model_a, found[-1].model_b} == {"?x", "real_images"}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/etc/passwd", "bad_path"),
        ("../secret.png", "bad_path"),
        ("images/\ud800.png", "bad_path"),
        ("images/link.png", "bad_path"),
        ("x" * 3000, "bad_path"),
        (7, "bad_path"),
        ("", "bad_path"),
        (None, "bad_path"),
    ],
)
def test_paths_stay_in_the_folder(path, reason, tmp_path):
    folder = tmp_path / "data"
    published.hpdv3(folder)
    (tmp_path / "secret.png").write_bytes(picture(0))
    (folder / "images/link.png").symlink_to(tmp_path / "secret.png")
    published.as_json(folder / "train.json", [{"prompt": "p", "path1": path, "path2": "images/0-l.png"}])
    assert entries("hpdv3", folder, {})[2] == [reason]


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("[]", []),
        (' [ {"a": 1} , 2 ]\n', [{"a": 1}, 2]),
        ('{"a": 1}\n{"b": [1, 2]}\n', [{"a": 1}, {"b": [1, 2]}]),
        ('\ufeff["\u00e9"]', ["\u00e9"]),
        ("", []),
    ],
)
def test_json_is_read_item_by_item(text, items, tmp_path, monkeypatch):
    (tmp_path / "x.json").write_text(text, "utf-8")
    for chunk in (1, 2, 2**20):
        monkeypatch.setattr(json_rows, "CHUNK", chunk)
        assert list(json_rows.read(tmp_path / "x.json")) == items


@pytest.mark.parametrize(
    "text", ["[1", "[1 2]", "[1]]", "[1,]", '[{"a": ]', "[" * 100_000, "[1,", "nonsense", f"[{'9' * 5000}]"]
)
def test_damaged_json_is_a_user_error(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="not JSON, damaged or cut short"):
        list(json_rows.read(tmp_path / "x.json"))


def test_files_of_another_kind_are_named(tmp_path):
    """Each source says what it expected and which file isn't so."""
    as_table = pa.table({"prompt": [1], "image1": ["x"]})
    pq.write_table(as_table, tmp_path / "train.parquet")
    (tmp_path / "train.json").write_text("[{}]")
    (tmp_path / "x.tar").write_bytes(b"\0" * 1024)
    for kind, found in {
        "imagereward": "columns missing: image_path, prompt_id, rank; columns of another type: prompt is int64 instead",
        "rapidata": "image1 is string instead of binary",
        "open_image_preferences": "columns missing: chosen, rejected",
        "pickapic_urls": "columns missing: caption",
        "hpdv2": "no row has human_preference or rank",
        "hpdv3": "no row has path1 and path2",
        "pickapic_webdataset": "its 1 files have none",
    }.items():
        with pytest.raises(UserError, match=found):
            entries(kind, tmp_path, {})
