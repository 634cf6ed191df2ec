"""A source's files: names that say a split, names that leave it open, links, what else is in the folder."""

import re
from pathlib import Path

import pytest

from diffalign.core.errors import UserError
from diffalign.data.sources import files


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def names(folder: Path, splits: dict[str, files.Said] | None = None) -> dict[str, str | None]:
    return {file.name: file.split for file in files.find(folder, ".parquet", splits or {})[0]}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00645-b66ac786bf6fb553.parquet", "train"),
        ("data/test_unique-0.parquet", "test"),
        ("validation_unique-00000-of-00001.parquet", "validation"),
        ("default/train/0000.parquet", "train"),
        ("validation_unique/0.parquet", "validation"),
        ("val.parquet", "validation"),
        ("Test-0.parquet", "test"),
        ("split=test/0.parquet", "test"),
        ("my_dataset.VALID.parquet", "validation"),
        ("dev2.parquet", "validation"),
        ("eval/0.parquet", "test"),
        ("pairs-evaluation-3.parquet", "test"),
        ("TestSet.parquet", "test"),
        ("DPOVal.parquet", "validation"),
        ("training_data/x.parquet", "train"),
        ("testing/test-0.parquet", "test"),
        ("part-0.parquet", None),
        ("latest/contest-values.parquet", None),
        ("devices.parquet", None),
    ],
)
def test_a_whole_word_of_a_name_says_the_split(name: str, split: str | None) -> None:
    assert files.split_of(name)[0] == split


@pytest.mark.parametrize(
    "name",
    [
        "test/train-0.parquet",
        "train/val.parquet",
        "train_test.parquet",
        "tests/x.parquet",
        "testset.parquet",
        "train/valset.parquet",
        "holdout.parquet",
        "held-out/0.parquet",
        "unseen_prompts.parquet",
    ],
)
def test_a_name_that_leaves_the_split_open_is_asked_about(tmp_path: Path, name: str) -> None:
    make(tmp_path, name, "part-0.parquet")
    with pytest.raises(UserError, match=r"(?s)1 of 2 files leave their split open.*data\.settings\.splits") as caught:
        files.find(tmp_path, ".parquet", {})
    assert name in str(caught.value) and "part-0" not in str(caught.value)
    assert names(tmp_path, {name: "test"}) == {name: "test", "part-0.parquet": None}


def test_params_say_the_split_of_files_by_pattern(tmp_path: Path) -> None:
    """The first pattern that matches wins, over the name's own words too; hash is no split of the source's."""
    make(tmp_path, "a/val.parquet", "a/x.parquet", "b/test-0.parquet", "c.parquet")
    found, _ = files.find(tmp_path, ".parquet", {"a/x*": "test", "a/*": "train", "b/*": "hash"})
    assert [(file.name, file.split, file.known_by) for file in found] == [
        ("a/val.parquet", "train", "data.settings.splits"),
        ("a/x.parquet", "test", "data.settings.splits"),
        ("b/test-0.parquet", None, "data.settings.splits"),
        ("c.parquet", None, "the hash of each prompt"),
    ]
    with pytest.raises(UserError, match=r"found none for A/\*\. There are a/val"):
        files.find(tmp_path, ".parquet", {"A/*": "train"})


def test_one_file_is_a_source_too(tmp_path: Path) -> None:
    make(tmp_path / "test", "part-0.parquet")
    assert names(tmp_path / "test" / "part-0.parquet") == {"part-0.parquet": None}


def test_linked_folders_and_files_are_read(tmp_path: Path) -> None:
    make(tmp_path / "disk", "train-1.parquet", "deep/train-2.parquet")
    make(tmp_path / "raw", "train-0.parquet")
    (tmp_path / "raw" / "more").symlink_to(tmp_path / "disk")
    (tmp_path / "raw" / "train-3.parquet").symlink_to(tmp_path / "disk" / "train-1.parquet")
    (tmp_path / "linked").symlink_to(tmp_path / "raw")
    for folder in ("raw", "linked"):
        assert list(names(tmp_path / folder)) == [
            "more/deep/train-2.parquet",
            "more/train-1.parquet",
            "train-0.parquet",
            "train-3.parquet",
        ]


@pytest.mark.parametrize("name", ["gone", "train-9.parquet", "deep/gone"])
def test_a_link_to_nothing_is_said(tmp_path: Path, name: str) -> None:
    make(tmp_path, "train-0.parquet", "deep/train-1.parquet")
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"{name} .*a link to nothing"):
        files.find(tmp_path, ".parquet", {})


def test_a_link_to_a_folder_above_is_said(tmp_path: Path) -> None:
    make(tmp_path, "deep/train-0.parquet")
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"deep/up .* is a link to a folder that it lies in"):
        files.find(tmp_path, ".parquet", {})


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    make(tmp_path, "train.PARQUET", "a.csv", "b/c.CSV", "README", ".cache/x.parquet", ".hidden.parquet")
    found, left_out = files.find(tmp_path, ".parquet", {})
    assert [file.name for file in found] == ["train.PARQUET"]
    assert left_out == {"hidden": 2, ".csv": 2, "no suffix": 1}


def test_the_page_lists_every_word_with_its_split(repo: Path) -> None:
    rows = re.findall(r"^\| (train|validation|test) \| (.+) \|$", (repo / "docs/data.md").read_text(), re.MULTILINE)
    assert {word: split for split, words in rows for word in re.findall(r"`(\w+)`", words)} == files.WORDS
