"""The end of ingest and of import in words: what became of the rows, and whether too many of them are lost."""

from collections.abc import Collection, Mapping

from diffalign.core.errors import UserError
from diffalign.data.comparisons.table import SPLITS
from diffalign.data.ledger import Ledger

INTENDED = frozenset(
    {
        "no_label",
        "duplicate",
        "repeated_answer",
        "contradicting_answer",
        "prompt_of_evaluation_set",
        "near_image_in_other_split",
    }
)
"""Rejects of any source that aren't a loss: nobody answered, the answer is there already, params keep the row out."""
SHORT = {"image_undecodable": "not an image"}
"""Words for a code where the code itself, without its underscores, doesn't say it well."""


def sentence(ledger: Ledger, steps: int, batch: int) -> str:
    """Returns what became of the rows, the prompts of each split, and the epochs of a training of so many steps.

    An epoch is as many pairs as the train split has answers that aren't ties.
    """
    rows, comparisons = ledger.rejects.total() + ledger.answers.total(), ledger.answers.total()
    rejected = f", {ledger.rejects.total()} rejected ({reasons(ledger.rejects)})" if ledger.rejects else ""
    prompts = " / ".join(str(len(ledger.prompts[split])) for split in SPLITS)
    epochs = steps * batch / ledger.trained if ledger.trained else 0
    return (
        f"{counted(rows, 'row')}: {counted(comparisons, 'comparison')}{rejected}; {prompts} prompts in "
        f"{' / '.join(SPLITS)}; {rounded(epochs)} epochs at batch {batch}"
    )


def reasons(rejects: Mapping[str, int]) -> str:
    """Returns counts of rejects in words, the most frequent first."""
    ordered = sorted(rejects.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} {SHORT.get(code, code.replace('_', ' '))}" for code, count in ordered)


def check_rejects(ledger: Ledger, limit: float, intended: Collection[str]) -> None:
    """Raises UserError where a larger share of the rows than `limit` is lost: rejected, but not as intended.

    `intended` are the source's own codes beside `INTENDED`.
    """
    rows = ledger.rejects.total() + ledger.answers.total()
    lost = {code: count for code, count in ledger.rejects.items() if code not in INTENDED.union(intended)}
    if sum(lost.values()) <= limit * rows:
        return
    lines = [
        f"\n  {count} {code}: {ledger.reasons[code]}; the first: {first.file}, row {first.row}: {first.detail}"[:300]
        for code, count in sorted(lost.items(), key=lambda item: -item[1])
        for first in [ledger.examples[code]]
    ]
    raise UserError(
        f"{sum(lost.values())} of {rows} rows can't be used, more than the share of {limit:g} that data.max_rejects "
        f"allows:{''.join(lines)}\nMend the data. If so many may go, raise data.max_rejects in params.yaml."
    )


def counted(number: int, word: str) -> str:
    """Returns a number with its word, in the plural where it isn't 1."""
    return f"{number:,} {word}{'s' if number != 1 else ''}"


def rounded(number: float) -> str:
    """Returns a number from 0 on, whole where that's precise enough."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}".removesuffix(".0")
