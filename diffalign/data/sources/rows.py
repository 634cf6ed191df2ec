"""Makes candidates of raw rows of published data sets: checked values, ids made of content, sides shuffled by hash."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from diffalign.data.comparisons.table import Answer, answer_of
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import source
from diffalign.data.sources.files import File
from diffalign.data.sources.source import Candidate

REASONS: Mapping[str, str] = source.REASONS | {
    "not_a_row": "a row without the fields of its kind",
    "bad_answer": "the answer is none that this data set knows",
    "bad_path": "an image's path that isn't text, or leads out of the data's folder",
}
"""Reject codes of this module and of `image_files.py`."""


MOST_VOTES = 10**9
"""Votes on two images; more are no number of people."""


class Bad(ValueError):
    """Raised for a raw row that can't become a comparison: a reject's code and its detail in words."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, clean(detail)[:500]

    def reject(self, file: File, row: int) -> Reject:
        """Returns the reject of a file's row."""
        return Reject(file.name, row, self.reason, self.detail)


class Side(NamedTuple):
    """An image as encoded bytes, and the model that made it."""

    image: bytes
    model: str | None = None


def comparison(
    file: File,
    row: int,
    name: str,
    prompt: str,
    sides: tuple[Side, Side],
    answer: Answer | None = None,
    *,
    share: float | None = None,
    shuffle: bool = False,
    **more: Any,
) -> Candidate:
    """Returns the candidate of a source called `name`: side 0 is a, or b where `shuffle` and the content's hash say so.

    The answer is given, or follows from the share of votes for side 0. `shuffle` is for data whose order of images says
    which won. `more`: `rater_id`, `votes`, `axis`, `rater_group`, `ranking` as in `Candidate`.
    """
    if (more.get("votes") or 0) > MOST_VOTES:
        raise Bad("bad_answer", f"expected at most {MOST_VOTES:,} votes, found {more['votes']:.3g}")
    shown = [hashlib.sha256(side.image).hexdigest() for side in sides]
    rest = [(key, value) for key, value in sorted(more.items()) if value is not None]
    digest = hashlib.sha256(repr((prompt, shown, answer, share, rest)).encode()).hexdigest()
    if answer is None:
        assert share is not None
        answer = answer_of(share)
    if more.get("votes") is None and share in (0.0, 0.5, 1.0):
        share = None  # one answer, not a share of many
    a, b = sides
    # Of the images only: the winner's place must not follow from the answer.
    if shuffle and int(hashlib.sha256("".join(sorted(shown)).encode()).hexdigest(), 16) % 2 == (shown[0] < shown[1]):
        a, b, answer = b, a, {"a": "b", "b": "a"}.get(answer, answer)  # type: ignore[assignment]
        share = None if share is None else 1 - share
    flags = ("no_rater", "no_time") if more.get("rater_id") is None else ("no_time",)
    return Candidate(
        file=file.name,
        row=row,
        split=file.split,
        comparison_id=f"{name}-{digest[:16]}",
        prompt=prompt,
        answer=answer,
        rater_id=more.pop("rater_id", None),
        model_a=a.model,
        model_b=b.model,
        created_at=None,
        flags=flags,
        bytes_a=a.image,
        bytes_b=b.image,
        share=share,
        **more,
    )


def prompt_of(raw: Any) -> str:
    """Returns a prompt, given as text or UTF-8; raises Bad, by `source.read_prompt`'s codes."""
    if isinstance(raw, str):
        raw = raw.encode("utf-8", "surrogatepass")
    if raw is not None and not isinstance(raw, bytes):
        raise Bad("caption_not_text", f"expected text, found {type(raw).__name__}")
    found = source.read_prompt(raw)
    if not isinstance(found, str):
        raise Bad(*found)
    return found


def text(raw: Any) -> str | None:
    """Returns text or UTF-8 as text, None for other values; what isn't Unicode is replaced."""
    if isinstance(raw, bytes):
        return raw.decode("utf-8", "replace")
    return clean(raw) if isinstance(raw, str) else None


def clean(raw: str) -> str:
    """Replaces the half surrogates of text, which JSON may spell and no file can hold."""
    return raw.encode("utf-8", "replace").decode()


def image(raw: Any) -> bytes:
    """Returns an image's bytes, given so or in Hugging Face's struct of bytes and path; none where they lack."""
    if isinstance(raw, dict):
        raw = raw.get("bytes")
    return raw if isinstance(raw, bytes) else b""


def number(raw: Any) -> float | None:
    """Returns a finite number as float, None for everything else, truth values too."""
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        return None
    try:
        found = float(raw)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def numbers(raw: Any) -> list[float] | None:
    """Returns a list of finite numbers, None for everything else."""
    if not isinstance(raw, list):
        return None
    found = [number(one) for one in raw]
    return None if None in found else [one for one in found if one is not None]


def share_of(first: Any, second: Any) -> float:
    """Returns the first's share of two amounts of votes, none below 0; raises Bad where there is no vote."""
    one, other = number(first), number(second)
    if one is None or other is None or min(one, other) < 0 or not 0 < one + other < math.inf:
        raise Bad("bad_answer", f"expected two numbers of votes, not both 0; found {first!r:.40} and {second!r:.40}")
    return one / (one + other)


def label_share(first: Any, second: Any) -> float:
    """Returns the first of Pick-a-Pic's two labels; raises Bad where they aren't shares of one whole, to six digits."""
    one, other = number(first), number(second)
    if one is None or other is None or not (0 <= one <= 1 and abs(one + other - 1) < 1e-6):
        raise Bad("bad_answer", f"expected labels from 0 to 1 with the sum 1, found {first!r:.40} and {second!r:.40}")
    return one


def mapping(raw: Any) -> Mapping[str, Any]:
    """Returns a row that is an object; raises Bad for others."""
    if not isinstance(raw, dict):
        raise Bad("not_a_row", f"expected an object, found {type(raw).__name__}")
    return raw
