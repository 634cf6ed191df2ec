"""Finds a source's files and the split of each: by params, by a word in its name, or else by the prompts' hash.

A name says a split by the hub's conventions: one of `WORDS` as a whole word, in any case, in the file's name or a
folder's (`Test-0.parquet`, `split=test/0.parquet`, `data/val.parquet`). A name that says two splits, or looks like
held-out data without being clear, stops with a question: `data.settings.splits` answers it.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.data.comparisons.table import Split

Said = Literal["train", "validation", "test", "hash"]
"""What `data.settings.splits` may say of a file; hash: each row's split is by the hash of its prompt."""

WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Words that name a split: those that the Hugging Face hub's loader knows."""

UNCLEAR = re.compile(
    r"(test|val|valid|validation|dev|eval|evaluation)(s|sets?|data|splits?|parts?|rows|images|prompts|pairs)"
    r"|hold(out)?|held(out)?|withheld|unseen"
)
"""Words that look like held-out data, but aren't conventions: training on such a file would be a guess."""


class File(NamedTuple):
    """One data file: where it is, its path below data.path as text, its split (None: by hash), how that is known."""

    path: Path
    name: str
    split: Split | None
    known_by: str


def find(path: Path, suffix: str, splits: Mapping[str, Said], deep: bool = True) -> tuple[list[File], dict[str, int]]:
    """Returns the files below a folder (or the one file) in the order of their paths, and what was left out.

    `splits` maps patterns of names (`*` matches any characters, `/` too) to splits; the first that matches wins. Left
    out are hidden files and folders and files with another suffix: their number by suffix. Linked folders are read
    like others; without `deep` folders are left out, whole. Raises UserError: nothing there, a link to nothing or to a
    folder above itself, a pattern without a file, a name that leaves the split open.
    """
    left_out: Counter[str] = Counter()
    paths = [path] if path.is_file() else sorted(_listed(path, suffix, left_out, deep), key=os.fsencode)
    found, unclear = [], []
    for file in paths:
        name = os.fsencode(Path(file.name if path.is_file() else file.relative_to(path)).as_posix())
        text = name.decode("utf-8", "replace")
        said = next((split for pattern, split in splits.items() if fnmatchcase(text, pattern)), None)
        if said is not None:
            found.append(File(file, text, None if said == "hash" else said, "data.settings.splits"))
            continue
        try:
            split, word = split_of(text)
        except ValueError as error:
            unclear.append((text, str(error)))
            continue
        found.append(File(file, text, split, f"the word {word} in its name" if word else "the hash of each prompt"))
    if unclear:
        raise UserError(_question(path, unclear, len(paths)))
    names = [file.name for file in found]
    if unused := [pattern for pattern in splits if not any(fnmatchcase(name, pattern) for name in names)]:
        raise UserError(
            f"data.settings.splits: expected patterns of files below {path}, found none for {', '.join(unused)}. "
            f"There are {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}."
        )
    return found, dict(sorted(left_out.items()))


def split_of(name: str) -> tuple[Split | None, str]:
    """Returns the split that a path names and the word that says it, (None, "") where none does.

    Raises ValueError, saying what was found, for words of several splits and for words that are unclear.
    """
    words = [word.lower() for run in re.findall(r"[^\W\d_]+", _stem(name)) for word in _camel(run)]
    said = {WORDS[word]: word for word in reversed(words) if word in WORDS}
    if len(said) > 1:
        raise ValueError(f"the words {' and '.join(sorted(said.values()))} name different splits")
    unclear = [word for word in words if UNCLEAR.fullmatch(word)]
    if unclear and said.keys() <= {"train"}:
        raise ValueError(f"{unclear[0]!r} looks like held-out data, but isn't one of the words {', '.join(WORDS)}")
    return next(iter(said.items()), (None, ""))


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _camel(run: str) -> list[str]:
    """Splits a run of letters where its case says that a word begins: TestSet, DPOTest."""
    return re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z]+", run)


def _question(path: Path, unclear: list[tuple[str, str]], count: int) -> str:
    lines = [f"\n  {name}: {why}" for name, why in unclear[:20]]
    more = f"\n  ... and {len(unclear) - 20} files more" if len(unclear) > 20 else ""
    return (
        f"{path} (data.path): the names of {len(unclear)} of {count} files leave their split open:"
        f"{''.join(lines)}{more}\n"
        f"Say it in params.yaml, such as data.settings.splits: {{{unclear[0][0]!r}: test}}, with train, validation, "
        "test, or hash (each row's split by the hash of its prompt); or rename the files."
    )


def _listed(folder: Path, suffix: str, left_out: Counter[str], deep: bool) -> Iterator[Path]:
    if not folder.is_dir():
        raise UserError(
            f"{folder} (data.path): expected a folder with *{suffix} files, it isn't there. Correct it in "
            f"params.yaml, or bring the data: {COMMAND} fetch"
        )
    found = False
    for path in _walk(folder, frozenset({_identity(folder)}), left_out, deep):
        if path.suffix.lower() == suffix:
            found = True
            yield path
        else:
            left_out[path.suffix.lower() or "no suffix"] += 1
    if not found:
        where = "at any depth" if deep else "in it"
        raise UserError(f"{folder} (data.path): expected *{suffix} files {where}, found none.")


def _walk(folder: Path, above: frozenset[tuple[int, int]], left_out: Counter[str], deep: bool) -> Iterator[Path]:
    """Yields the files below a folder, through links too; `above` identifies the folder and those that it is in."""
    try:
        paths = [folder / name for name in os.listdir(folder)]
    except OSError as error:
        raise UserError(
            f"{folder} (data.path) can't be read: {error.strerror}. Give permission or remove it."
        ) from error
    for path in paths:
        if path.name.startswith("."):
            left_out["hidden"] += 1
        elif path.is_dir():
            if not deep:
                left_out["folder"] += 1
                continue
            if _identity(path) in above:
                raise UserError(f"{path} (data.path) is a link to a folder that it lies in. Remove the link.")
            yield from _walk(path, above | {_identity(path)}, left_out, deep)
        elif path.is_file():
            yield path
        else:
            what = "a link to nothing" if path.is_symlink() else "neither a file nor a folder"
            raise UserError(f"{path} (data.path) is {what}. Bring back what it stands for, or remove it.")


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
