"""Answers of tables: which of two images won, in words, shares or counts of votes."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffalign.core.errors import UserError
from diffalign.data.comparisons.table import Answer, answer_of
from diffalign.data.sources import values
from diffalign.data.sources.rows import Bad

WORDS: dict[str, Answer] = {
    **dict.fromkeys(("a", "image_a", "left", "first"), "a"),
    **dict.fromkeys(("b", "image_b", "right", "second"), "b"),
    **dict.fromkeys(("tie", "tied", "equal", "same", "draw", "both", "both_good"), "tie"),
    **dict.fromkeys(("both_bad", "neither"), "both_bad"),
}
"""Answers that need no explanation, in lower case."""
SURVEYED = 20
"""Different words at most that a table's answers are asked about."""


class Said(NamedTuple):
    """An answer, with the share of a and the number of votes where many answered."""

    answer: Answer
    share: float | None = None
    votes: int | None = None


def understood(
    path: Path, column: str, words: Iterable[str | None], own: Mapping[str, Answer], given: Mapping[str, Answer]
) -> dict[str, Answer]:
    """Returns what each word of a column of answers says; raises UserError, as a question, for words that need it.

    `own` are words of this table, such as its images' columns; `given` are the user's, which come first. 1 and 2 are
    the first and the second image; 0 and 1 may be an image's number or a score, which is asked about.
    """
    seen: dict[str, None] = {}
    for word in words:
        if word is not None and len(seen) < SURVEYED:
            seen[word] = None
    known = {**WORDS, **own, **{word.strip().lower(): said for word, said in given.items()}}
    unknown = [word for word in seen if word not in known]
    if unknown and set(unknown) <= {"1", "2"} and "2" in unknown:
        return {**known, "1": "a", "2": "b"}
    if unknown and (len(unknown) == len(seen) or any(values.number(word) is not None for word in unknown)):
        shown = ", ".join(word[:40] for word in unknown)
        raise UserError(
            f"What do the answers in {path} say? Column {column} has {shown}. Say it of each: --answer "
            f"{unknown[0][:40]}=a for the first image, b for the second, tie for neither (in params.yaml "
            f"data.settings.answers). If it's the share of votes for the first image: --column share={column}"
        )
    return known


def word_of(value: Any, image_a: Any, image_b: Any) -> str | None:
    """Returns an answer's word in lower case; image_a or image_b where the answer is that image's path."""
    named = [side for side, path in (("image_a", image_a), ("image_b", image_b)) if value and path == value]
    if len(named) == 1:
        return named[0]
    found = values.number(value)
    if found is not None and found.is_integer():
        return str(int(found))  # 1, 1.0 and "1" are one word
    words = values.text(value)
    return None if words is None else words.lower()


def of_word(word: str | None, known: Mapping[str, Answer]) -> Said:
    """Returns the answer of a word; raises Bad for an empty or unknown one."""
    if word is None or known.get(word) == "none":
        raise Bad("no_label", "the answer is empty")
    if word not in known:
        raise Bad("bad_answer", f"the answer is {word[:80]!r}")
    return Said(known[word])


def of_share(value: Any) -> Said:
    """Returns the answer of a share of votes for a; raises Bad for an empty one, and outside [0, 1]."""
    if values.text(value) is None:
        raise Bad("no_label", "the share is empty")
    share = values.number(value)
    if share is None or not 0 <= share <= 1:
        raise Bad("bad_answer", f"expected a share from 0 to 1, found {value!r}")
    return Said(answer_of(share), None if share in (0, 0.5, 1) else share)


def of_votes(value_a: Any, value_b: Any) -> Said:
    """Returns the answer of two counts of votes; raises Bad where there are none, or they aren't counts."""
    a, b = values.count(value_a), values.count(value_b)
    if a is None or b is None:
        raise Bad("bad_answer", f"expected two counts of votes, found {value_a!r:.80}, {value_b!r:.80}")
    if a + b == 0:
        raise Bad("no_label", "no votes")
    return Said(answer_of(a / (a + b)), a / (a + b), a + b)
