"""Loads a set of prompts: a published one by its name, one module each, or a file of one's own.

A published set's files lie in `data/raw/prompts/NAME/`, where `python pipeline.py fetch NAME` puts them. They are
counted: a set of another size isn't the one whose results were published. The module of a set offers
`load(folder) -> list[Prompt]`.
"""

import hashlib
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffalign.core import axes
from diffalign.core.errors import UserError
from diffalign.data.splits import normalised

ROOT = Path("data/raw/prompts")
"""Where the published sets lie, a folder each."""


@dataclass(frozen=True)
class Prompt:
    """A prompt to make images for, the name of its set, and its category there, None without one."""

    text: str
    set: str
    category: str | None = None


def load(name: str) -> list[Prompt]:
    """Loads a whole set: a published one by name, else a .txt or .tsv file; each prompt once, repeats said on stderr.

    Raises UserError where the files are missing, or aren't the set.
    """
    from diffalign.data.prompts import own

    if name.endswith(own.SUFFIXES):
        found = own.read(Path(name))
    else:
        found = axes.load("diffalign.data.prompts", name).load(ROOT / name)
    by_text: dict[str, Prompt] = {}
    for prompt in found:
        by_text.setdefault(prompt.text, prompt)
    distinct = list(by_text.values())
    if len(distinct) < len(found):
        sys.stderr.write(f"prompts: {name} has {len(found) - len(distinct)} prompts twice: each is used once\n")
    return distinct


def first(prompts: Sequence[Prompt], count: int | None) -> list[Prompt]:
    """Returns the `count` prompts whose texts have the lowest SHA-256, in their order in the set; None: all.

    Sets are sorted by category: their first prompts would be one category's.
    """
    if count is None or count >= len(prompts):
        return list(prompts)
    chosen = set(sorted(prompts, key=lambda p: hashlib.sha256(p.text.encode()).digest())[:count])
    return [prompt for prompt in prompts if prompt in chosen]


def overlap(prompts: Sequence[Prompt], seen: Collection[str]) -> dict[str, int]:
    """Counts by set the prompts that are among `seen`, whatever their case, spacing and Unicode form."""
    known = {normalised(text) for text in seen}
    counts = dict.fromkeys((prompt.set for prompt in prompts), 0)
    for prompt in prompts:
        counts[prompt.set] += normalised(prompt.text) in known
    return counts


def check(path: Path, found: Mapping[str, int], expected: Mapping[str, int], remedy: str) -> None:
    """Raises UserError unless a file has the counts that its set was published with."""
    if dict(found) != dict(expected):
        raise UserError(f"{path}: expected {_words(expected)}, found {_words(found)}. {remedy}")


def text_of(path: Path, remedy: str) -> str:
    """Returns a file's text, UTF-8 with or without a mark; UserError with the remedy if it can't be read."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} is missing. {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read as UTF-8 text: {error}. {remedy}") from None


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items())
