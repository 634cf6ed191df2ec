"""What becomes of comparisons that filters flagged when pairs are made of them.

A flag is `unsafe_prompt:NAME`, `unsafe_a:NAME` or `unsafe_b:NAME`, NAME the filter's; `unscored_a:NAME` where an image
has no score, and isn't known to be safe.
"""

from typing import Literal

import pyarrow as pa

Flagged = Literal["keep", "drop", "losers"]
UNSAFE, UNSCORED = "unsafe", "unscored"
DOUBTFUL = (f"{UNSAFE}_", f"{UNSCORED}_")


def allowed(table: pa.Table, flagged: Flagged) -> pa.Table:
    """Returns the comparisons that may be learned from: with `drop` those that no filter flagged, else all."""
    if flagged != "drop":
        return table
    rows = table["flags"].to_pylist()
    return table.filter(pa.array([not any(f.startswith(DOUBTFUL) for f in flags or ()) for flags in rows], pa.bool_()))


def barred(table: pa.Table, flagged: Flagged) -> frozenset[str]:
    """Returns the images that may only lose: with `losers` those that are unsafe, or have no score, else none.

    It's the votes' outcome that counts: an image that lost a vote and won the pair is barred from winning the pair.
    """
    if flagged != "losers":
        return frozenset()
    found: set[str] = set()
    for side in "ab":
        prefixes = tuple(f"{prefix}{side}:" for prefix in DOUBTFUL)
        rows = zip(table[f"image_{side}"].to_pylist(), table["flags"].to_pylist(), strict=True)
        found.update(image for image, flags in rows if any(flag.startswith(prefixes) for flag in flags or ()))
    return frozenset(found)
