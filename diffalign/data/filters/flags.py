"""What becomes of comparisons that filters flagged when pairs are made of them.

A flag is `unsafe_prompt:NAME`, `unsafe_a:NAME` or `unsafe_b:NAME`, NAME the filter's; `unscored_a:NAME` where an image
has no score.
"""

from typing import Literal

import pyarrow as pa

Flagged = Literal["keep", "drop", "losers"]
UNSAFE, UNSCORED = "unsafe", "unscored"


def kept(table: pa.Table, flagged: Flagged) -> pa.Table:
    """Returns the comparisons that pairs may be made of.

    keep: all. drop: those without an unsafe flag. losers: without those whose preferred image is unsafe, so that an
    unsafe image only ever loses; of an unsafe prompt the better image is still learned from.
    """
    if flagged == "keep":
        return table
    rows = zip(table["answer"].to_pylist(), table["flags"].to_pylist(), strict=True)
    return table.filter(pa.array([not _excluded(answer, flags, flagged) for answer, flags in rows], pa.bool_()))


def _excluded(answer: str, flags: list[str] | None, flagged: Flagged) -> bool:
    prefix = f"{UNSAFE}_" if flagged == "drop" else f"{UNSAFE}_{answer}:"
    return any(flag.startswith(prefix) for flag in flags or ())
