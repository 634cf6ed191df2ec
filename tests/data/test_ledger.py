"""The ledger by itself: what counts as a rater's repeated answer, for answers that a source of today doesn't give."""

from pathlib import Path

import pytest

from diffalign.data import images
from diffalign.data.comparisons.table import ANSWERS
from diffalign.data.comparisons.writer import Writer
from diffalign.data.ledger import REASONS, Ledger
from diffalign.data.sources.source import Candidate
from diffalign.data.splits import PromptSplits
from tests.helpers import pickapic

A, B = b"a" * 32, b"b" * 32


def rejected(folder: Path, rows: list[tuple[str, str]]) -> dict[str, int]:
    """Enters one rater's rows of (prompt, answer) about the same two images; counts the rejects."""
    data = pickapic.image(0)
    with Writer(folder / "out") as writer:
        ledger = Ledger(writer, "test", PromptSplits([], 0.0, 0.0), "first", REASONS)
        ledger.images |= {A: images.Header(8, 8, "PNG"), B: images.Header(8, 8, "PNG")}
        for n, (prompt, answer) in enumerate(rows):
            assert answer in ANSWERS
            row = Candidate("f", n, None, str(n), prompt, answer, "7", None, None, None, (), data, data)
            ledger.enter(row, A, B)
        return dict(ledger.rejects)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("A cat", "a"), (" a  CAT", "a")], {"repeated_answer": 1}),
        ([("A cat", "a"), ("a cat", "b")], {"contradicting_answer": 1}),
        ([("A cat", "none"), ("a cat", "b"), ("a cat", "none")], {}),
        ([("a cat", "tie"), ("a dog", "tie")], {}),
    ],
    ids=["case and spacing", "contradiction", "no answer is none", "another prompt"],
)
def test_one_raters_repeats(tmp_path: Path, rows: list[tuple[str, str]], expected: dict[str, int]) -> None:
    assert rejected(tmp_path, rows) == expected
