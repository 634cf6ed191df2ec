"""What images show where their prompts leave it open: a policy's distribution of an attribute beside the baseline's.

Legend: N images, V values. A label is a value's index, or NONE where an image shows none of them, or its prompt isn't
open.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffalign.core.errors import UserError
from diffalign.core.progress import Progress
from diffalign.evaluation.audits import differences
from diffalign.evaluation.audits.findings import Shift
from diffalign.evaluation.audits.safety import estimated
from diffalign.evaluation.bootstrap import Floats
from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.scoring import CHUNK, Score
from diffalign.generation.gallery import Gallery

NONE = -1
Labels = NDArray[np.int64]
Images = list[NDArray[np.uint8]]


@dataclass(frozen=True)
class Labelled:
    """An attribute's values, and which of them each policy's images show."""

    values: tuple[str, ...]
    open: NDArray[np.bool_]
    """Whether the prompt of each image leaves the attribute open, [N]."""
    labels: Mapping[str, Labels]
    """Of each policy's images, [N]."""
    confusion: Mapping[str, Mapping[str, float]] | None = None
    """How often the classifier sees each value where one is true; None where that isn't known."""


def label(
    galleries: Mapping[str, Gallery],
    free: NDArray[np.bool_],
    of: Callable[[Images], Labels],
    columns: tuple[int, ...] = (),
) -> dict[str, Labels]:
    """Labels each policy's images of open prompts, `free` [N], a few at a time; NONE for all others.

    `of` returns labels [B] of some images, or of A attributes [B, A]: with `columns` (A,) the result is [N, A].
    """
    chosen = np.flatnonzero(free).tolist()
    found = {name: np.full((len(free), *columns), NONE, np.int64) for name in galleries}
    for name, gallery in galleries.items():
        progress = Progress(f"audit: {name}", len(chosen))
        for start in range(0, len(chosen), CHUNK):
            part = chosen[start : start + CHUNK]
            found[name][part] = of([gallery.pixels(gallery.entries[i]) for i in part])
            progress.update(len(part))
    return found


def by_texts(
    score: Score,
    reward: str,
    group: str,
    texts: Mapping[str, str],
    confusion: Mapping[str, Mapping[str, float]] | None,
    galleries: Mapping[str, Gallery],
) -> Labelled:
    """Labels images of the set `group` by the value whose text a reward scores highest; NONE where a score is missing.

    Raises UserError where no prompt is of that set.
    """
    entries = next(iter(galleries.values())).entries
    free = np.array([entry.set == group for entry in entries])
    if not free.any():
        raise UserError(
            f"audit.attributes: expected images for the prompts of {group}, found those of "
            f"{', '.join(sorted({entry.set for entry in entries}))}. Add it to generate.prompts in params.yaml."
        )

    def of(images: Images) -> Labels:
        return highest(np.stack([score(images, [text] * len(images))[reward] for text in texts.values()], axis=1))

    return Labelled(tuple(texts), free, label(galleries, free, of), confusion)


def highest(scores: Floats) -> Labels:
    """Returns the column of the highest score, [N] of [N, V]; NONE where one is missing, or two share the highest."""
    known = np.where(np.isnan(scores), np.inf, scores)
    unclear = np.isnan(scores).any(axis=1) | ((known == known.max(axis=1, keepdims=True)).sum(axis=1) > 1)
    return np.where(unclear, NONE, known.argmax(axis=1))


def compare(audit: str, baseline: str, galleries: Mapping[str, Gallery], found: Labelled, how: Interval) -> list[Shift]:
    """Compares every policy with the baseline, in each set of prompts that has open ones."""
    entries = galleries[baseline].entries
    sets = list(dict.fromkeys(entry.set for entry, free in zip(entries, found.open, strict=True) if free))
    return [
        _row(audit, policy, baseline, group, galleries[baseline], found, how)
        for policy in galleries
        if policy != baseline
        for group in sets
    ]


def matrix(values: Sequence[str], confusion: Mapping[str, Mapping[str, float]], where: str) -> Floats:
    """Returns a confusion matrix [V, V] from its rows by name; UserError naming `where` it stands if it isn't one."""
    rows = [[float(confusion.get(true, {}).get(seen, np.nan)) for seen in values] for true in values]
    found = np.array(rows)
    if set(confusion) != set(values) or np.isnan(found).any() or not np.allclose(found.sum(axis=1), 1, atol=1e-3):
        raise UserError(
            f"{where}: expected a row for each of {', '.join(values)}, what is seen where it's true, with a sum of 1; "
            f"found {dict(confusion)}"
        )
    if np.linalg.cond(found) > 100:
        raise UserError(f"{where}: this classifier doesn't tell the values apart; the audit can't be corrected for it")
    return found


def _row(audit: str, policy: str, baseline: str, group: str, gallery: Gallery, found: Labelled, how: Interval) -> Shift:
    inside = found.open & np.array([entry.set == group for entry in gallery.entries])
    known = inside & (found.labels[policy] != NONE) & (found.labels[baseline] != NONE)
    prompts = [entry.prompt_index for entry, kept in zip(gallery.entries, known, strict=True) if kept]
    V = len(found.values)
    after, before = (
        differences.by_cluster(differences.one_hot(found.labels[name][known], V), prompts)
        for name in (policy, baseline)
    )
    wrong = None if found.confusion is None else matrix(found.values, found.confusion, f"audit.attributes.{audit}")
    change = after - before if wrong is None else differences.corrected(after - before, wrong)
    enough = len(change) > 1
    return Shift(
        audit=audit,
        policy=policy,
        baseline=baseline,
        set=group,
        images=len(prompts),
        missing=int(inside.sum()) - len(prompts),
        prompts=len(change),
        shares=_shares(found.values, after),
        baseline_shares=_shares(found.values, before),
        corrected=wrong is not None,
        error_rate=None if wrong is None else float(1 - np.diag(wrong).mean()),
        distance=estimated(differences.distance(change, how.confidence, how.resamples, how.seed) if enough else None),
        p=differences.shift_p(change, how.resamples, how.seed) if enough else None,
    )


def _shares(values: Sequence[str], found: Floats) -> dict[str, float]:
    means = found.mean(axis=0) if len(found) else np.zeros(len(values))
    return {value: float(share) for value, share in zip(values, means, strict=True)}
