"""The ledger of ingest: each raw row becomes exactly one comparison or one reject with a reason; all are counted."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from diffalign.core.errors import UserError
from diffalign.data import images, odd
from diffalign.data.comparisons.table import ANSWERS, SPLITS, Comparison, Split
from diffalign.data.comparisons.writer import Reject, Writer
from diffalign.data.filters.screen import Screen
from diffalign.data.sources.source import Candidate
from diffalign.data.splits import ImageSplits, PromptSplits, normalised

Repeats = Literal["first", "all"]
"""The answers that count of one rater's to the same prompt and two images, whichever side they were on."""

REASONS = {
    "duplicate": "the same answer of the same rater was there before",
    "repeated_answer": "the rater had given the same answer to these two images before",
    "contradicting_answer": "the rater had given another answer to these two images before",
    "same_image": "the same bytes on both sides",
}
"""Reject codes of this module."""


class Refusal(NamedTuple):
    """The reason why a row or an image can't be used: a reject's code and detail."""

    reason: str
    detail: str


class Ledger:
    """Turns candidates into comparisons or rejects, writes and counts them.

    A comparison is written when `settle` is called, after the last row: only then is it known which images are held
    out. An image is written when the first row with it is entered; where that row is kept out by the other image, this
    one stays in the files, unused. `images` has what was found of every image examined, by SHA-256: its header until it
    is written (then None: written), or why it can't be used. `examples` are the first reject of each reason, `trained`
    the number of comparisons in the train split that aren't ties.
    """

    def __init__(
        self,
        writer: Writer,
        source: str,
        splits: PromptSplits,
        repeats: Repeats,
        reasons: Mapping[str, str],
        screen: Screen | None = None,
        near_duplicates: int | None = None,
    ) -> None:
        self.writer, self.source, self.splits, self.repeats, self.reasons = writer, source, splits, repeats, reasons
        self.screen = screen or Screen(0)
        self.flags: Counter[str] = Counter()
        self.images: dict[bytes, images.Header | Refusal | None] = {}
        self.image_splits = ImageSplits(near_duplicates)
        self.ids: set[str] = set()
        self.answered: dict[bytes, bytes] = {}
        self.prompts: dict[Split, set[bytes]] = {split: set() for split in SPLITS}
        self.raters: set[str] = set()
        self.unnamed = 0
        self.rejects: Counter[str] = Counter()
        self.examples: dict[str, Reject] = {}
        self.answers: Counter[str] = Counter()
        self.trained = 0
        self.split_sizes: Counter[str] = Counter()
        self.stored = self.stored_bytes = 0

    def reject(self, reject: Reject) -> None:
        """Counts and writes a reject."""
        assert reject.reason in self.reasons, reject
        self.rejects[reject.reason] += 1
        self.examples.setdefault(reject.reason, reject)
        self.writer.reject(reject)

    def enter(self, candidate: Candidate, a: bytes, b: bytes) -> None:
        """Enters a candidate whose images, with SHA-256 a and b, were examined: as pending, or as a reject."""
        refusal = self._refusal(candidate, a, b)
        if refusal:
            self.reject(Reject(candidate.file, candidate.row, *refusal))
            return
        self._store(a, candidate.bytes_a)
        self._store(b, candidate.bytes_b)
        self.ids.add(candidate.comparison_id)
        comparison = Comparison(
            comparison_id=candidate.comparison_id,
            prompt=candidate.prompt,
            image_a=a.hex(),
            image_b=b.hex(),
            answer=candidate.answer,
            rater_id=candidate.rater_id,
            source=candidate.source or self.source,
            model_a=candidate.model_a,
            model_b=candidate.model_b,
            created_at=candidate.created_at,
            split=self.splits.of(candidate.prompt),
            flags=(*candidate.flags, *self.screen.flags(candidate.prompt, a, b)),
            share=candidate.share,
            votes=candidate.votes,
            axis=candidate.axis,
            rater_group=candidate.rater_group,
            ranking=candidate.ranking,
        )
        self.image_splits.note(comparison.split, a, b)
        self.writer.defer(comparison, candidate.file, candidate.row)

    def settle(self) -> None:
        """Writes the pending comparisons in order; rejects those that share an image with a split held out."""
        for comparison, file, row in self.writer.deferred():
            a, b = bytes.fromhex(comparison.image_a), bytes.fromhex(comparison.image_b)
            owner = self.image_splits.owner(comparison.split, a, b)
            alike = self.image_splits.lookalike(comparison.split, a, b)
            if owner != comparison.split:
                detail = f"this is {comparison.split}, one of its images is in {owner}"
                self.reject(Reject(file, row, "image_in_other_split", detail))
            elif alike != comparison.split:
                detail = f"this is {comparison.split}, one of its images looks like one in {alike}"
                self.reject(Reject(file, row, "near_image_in_other_split", detail))
            else:
                self.writer.add(comparison)
                self._count(comparison)

    def check(self, rows: int) -> None:
        """Asserts that every raw row is accounted for; raises UserError if none became a comparison."""
        comparisons, rejects = sum(self.answers.values()), self.rejects.total()
        if comparisons + rejects != rows:
            raise AssertionError(f"{rows} rows, but {comparisons} comparisons and {rejects} rejects")
        if not comparisons:
            reasons = "".join(f"\n  {count} {code}: {self.reasons[code]}" for code, count in self.rejects.most_common())
            raise UserError(f"None of the {rows} rows at data.path can be used:{reasons}")

    def metrics(self) -> dict[str, Any]:
        """Returns the counts for metrics/ingest.json; sizes in bytes; `ties_share` of the comparisons."""
        comparisons = sum(self.answers.values())
        return {
            "schema": 1,
            "source": self.source,
            "rows": comparisons + self.rejects.total(),
            "comparisons": comparisons,
            "rejected": self.rejects.total(),
            "rejects": dict(self.rejects),
            "answers": {answer: self.answers[answer] for answer in ANSWERS},
            "ties_share": self.answers["tie"] / comparisons,
            "splits": {split: self.split_sizes[split] for split in SPLITS},
            "prompts": sum(map(len, self.prompts.values())),
            "split_prompts": {split: len(found) for split, found in self.prompts.items()},
            "raters": len(self.raters),
            "images": self.stored,
            "image_bytes": self.stored_bytes,
            **self.screen.metrics(self.flags),
        }

    def odd(self) -> list[str]:
        """Returns what is small or odd in the comparisons, in words."""
        return odd.of_data(
            test_prompts=len(self.prompts["test"]),
            validation_prompts=len(self.prompts["validation"]),
            comparisons=sum(self.answers.values()),
            ties=self.answers["tie"],
            raters=len(self.raters),
            unnamed=self.unnamed,
            sides=[self.answers["a"], self.answers["b"]],
        )

    def _refusal(self, candidate: Candidate, a: bytes, b: bytes) -> Refusal | None:
        """Returns the first reason that holds; image a's before image b's."""
        if candidate.comparison_id in self.ids:
            return Refusal("duplicate", f"{candidate.comparison_id} was there before")
        for side, found in (("a", self.images[a]), ("b", self.images[b])):
            if isinstance(found, Refusal):
                return Refusal(found.reason, f"image {side}: {found.detail}")
        return Refusal("same_image", f"both are {a.hex()}") if a == b else self._repeated(candidate, a, b)

    def _repeated(self, candidate: Candidate, a: bytes, b: bytes) -> Refusal | None:
        """Notes a rater's answer to a question about two images, whichever side they were on; refuses the later ones.

        The prompt counts as one whatever its case and spacing, as for splits. No answer (`none`) is none.
        """
        if self.repeats == "all" or candidate.rater_id is None or candidate.answer == "none":
            return None
        better = {"a": a, "b": b}.get(candidate.answer, candidate.answer.encode())
        asked = hashlib.sha256(
            repr((candidate.rater_id, candidate.axis, normalised(candidate.prompt), *sorted((a, b)))).encode()
        ).digest()
        before = self.answered.get(asked)
        if before is None:
            self.answered[asked] = better
            return None
        reason = "repeated_answer" if before == better else "contradicting_answer"
        return Refusal(reason, f"rater {candidate.rater_id}, images {a.hex()} and {b.hex()}")

    def _store(self, digest: bytes, data: bytes) -> None:
        header = self.images[digest]
        if isinstance(header, images.Header):
            self.writer.add_image(digest.hex(), data, *header)
            self.images[digest] = None
            self.stored += 1
            self.stored_bytes += len(data)

    def _count(self, comparison: Comparison) -> None:
        self.answers[comparison.answer] += 1
        self.split_sizes[comparison.split] += 1
        self.trained += comparison.split == "train" and comparison.answer in ("a", "b")
        self.flags.update(comparison.flags)
        self.prompts[comparison.split].add(hashlib.sha256(comparison.prompt.encode()).digest())
        if comparison.rater_id is None:
            self.unnamed += 1
        else:
            self.raters.add(comparison.rater_id)
