"""ingest: raw preference rows to comparisons, rejects and unique images; each row is one of the first two.

It streams: in memory are a batch of rows, a row group of images, and hashes of every image, comparison and prompt
(0.4 GB for the 959,040 rows of Pick-a-Pic v2). Decoding takes most of the time and runs on all cores.
"""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from diffalign.core import files
from diffalign.core.errors import UserError
from diffalign.core.progress import Progress
from diffalign.data import images
from diffalign.data.comparisons.table import ANSWERS, SPLITS, Comparison, Split
from diffalign.data.comparisons.writer import Reject, Writer
from diffalign.data.sources.pickapic import SOURCES, Candidate, Source

if TYPE_CHECKING:
    from diffalign.config.params import Params

OUT, METRICS = Path("data/comparisons"), Path("metrics/ingest.json")

REASONS = {
    "null_caption": "no prompt",
    "caption_not_text": "a prompt that isn't UTF-8",
    "empty_caption": "a prompt of white space",
    "caption_too_long": "a prompt of more than 10,000 characters",
    "no_label": "nobody answered",
    "bad_label": "the answer is neither of the images nor a tie",
    "prompt_in_other_split": "the source has this prompt also in a split held out from this row's",
    "duplicate": "the same answer of the same rater was there before",
    "image_missing": "an image without bytes",
    "image_too_large": "an image above data.max_image_bytes or data.max_image_pixels",
    "image_truncated": "an image cut short",
    "image_undecodable": "bytes that aren't a JPEG, PNG or WebP, or are damaged",
    "same_image": "the same bytes on both sides",
}
"""Why a row is rejected, by the code in rejects.parquet: the first that holds, image a's before image b's."""


class Refusal(NamedTuple):
    """Why an image can't be used."""

    reason: str
    detail: str


Look = Callable[[bytes], images.Header | Refusal]


def run(params: "Params", policy: str | None = None) -> None:
    """Writes `data/comparisons` and `metrics/ingest.json` from the raw rows at data.path.

    Raises UserError for data that isn't what data.source expects, for a damaged file, where no row can be used, and on
    a full disk; nothing is left in `data/comparisons` then.
    """
    data = params.data
    source = SOURCES[data.source](Path(data.path))
    look = partial(look_at, max_pixels=data.max_image_pixels, max_bytes=data.max_image_bytes)
    splits = Splits(source.claims(), data.validation, data.test)
    work = files.RUNS / "ingest"
    work.mkdir(parents=True, exist_ok=True)
    with files.lock(work):
        with Writer(OUT) as writer:
            ledger = Ledger(writer, data.source, splits)
            ingest(source, ledger, look)
            ledger.check(source.rows)
        about = {"files": len(source.files), "simulated": source.simulated}
        files.write_json(METRICS, ledger.metrics() | about)


def ingest(source: Source, ledger: "Ledger", look: Look) -> None:
    """Enters every record of the source into the ledger, in order; images are hashed and decoded in threads."""
    progress = Progress("ingest", source.rows)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for records in source.records():
            entries = [ledger.splits.screen(record) for record in records]
            shown = [data for e in entries if isinstance(e, Candidate) for data in (e.bytes_a, e.bytes_b)]
            digests = list(pool.map(_sha256, shown))
            fresh = {digest: data for digest, data in zip(digests, shown, strict=True) if digest not in ledger.images}
            ledger.images.update(zip(fresh, pool.map(look, fresh.values()), strict=True))
            sides = iter(digests)
            for entry in entries:
                if isinstance(entry, Reject):
                    ledger.reject(entry)
                else:
                    ledger.enter(entry, next(sides), next(sides))
            progress.update(len(records))


class Splits:
    """Which split a prompt is in: one only, whatever its case and spacing.

    The source's own splits win; where it has a prompt in several, test before validation before train. Other prompts
    go by their hash, in the shares `validation` and `test`.
    """

    def __init__(self, claims: Iterable[tuple[str, Split]], validation: float, test: float) -> None:
        self.validation, self.test = validation, test
        self.owners: dict[bytes, int] = {}
        for prompt, split in claims:
            key = _prompt_key(prompt)
            self.owners[key] = max(self.owners.get(key, 0), SPLITS.index(split))

    def of(self, prompt: str) -> Split:
        """The split of a prompt."""
        key = _prompt_key(prompt)
        if key in self.owners:
            return SPLITS[self.owners[key]]
        share = int.from_bytes(key[:8], "big") / 2**64
        return "test" if share < self.test else "validation" if share < self.test + self.validation else "train"

    def screen(self, record: Candidate | Reject) -> Candidate | Reject:
        """The record, unless it's in another split than its prompt."""
        if isinstance(record, Reject) or record.split is None:
            return record
        owner = self.of(record.prompt)
        if owner == record.split:
            return record
        detail = f"this is {record.split}, the prompt is in {owner}"
        return Reject(record.file, record.row, "prompt_in_other_split", detail)


class Ledger:
    """Enters each row once, as a comparison or a reject, into the writer, and counts."""

    def __init__(self, writer: Writer, source: str, splits: Splits) -> None:
        self.writer, self.source, self.splits = writer, source, splits
        # Of every image looked at, by hash: its header until it's written (then None: written), or what's wrong.
        self.images: dict[bytes, images.Header | Refusal | None] = {}
        self.ids: set[str] = set()
        self.prompts: dict[Split, set[bytes]] = {split: set() for split in SPLITS}
        self.raters: set[str] = set()
        self.rejects: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.split_sizes: Counter[str] = Counter()
        self.stored = self.stored_bytes = 0

    def reject(self, reject: Reject) -> None:
        """Counts and writes a reject."""
        assert reject.reason in REASONS, reject
        self.rejects[reject.reason] += 1
        self.writer.reject(reject)

    def enter(self, candidate: Candidate, a: bytes, b: bytes) -> None:
        """Makes a candidate, its images' SHA-256 a and b, a comparison or a reject; both images were looked at."""
        refusal = self._refusal(candidate, a, b)
        if refusal:
            self.reject(Reject(candidate.file, candidate.row, *refusal))
            return
        self._store(a, candidate.bytes_a)
        self._store(b, candidate.bytes_b)
        comparison = Comparison(
            comparison_id=candidate.comparison_id,
            prompt=candidate.prompt,
            image_a=a.hex(),
            image_b=b.hex(),
            answer=candidate.answer,
            rater_id=candidate.rater_id,
            source=self.source,
            model_a=candidate.model_a,
            model_b=candidate.model_b,
            created_at=candidate.created_at,
            split=self.splits.of(candidate.prompt),
            flags=candidate.flags,
        )
        self.writer.add(comparison)
        self._count(comparison)

    def check(self, rows: int) -> None:
        """Asserts that every raw row is accounted for; raises UserError if none became a comparison."""
        entered = sum(self.answers.values()), self.rejects.total()
        if sum(entered) != rows or len(self.ids) != entered[0]:
            raise AssertionError(f"{rows} rows, but {entered[0]} comparisons and {entered[1]} rejects")
        if not self.ids:
            reasons = "".join(f"\n  {count} {code}: {REASONS[code]}" for code, count in self.rejects.most_common())
            raise UserError(f"None of the {rows} rows at data.path can be used:{reasons}")

    def metrics(self) -> dict[str, Any]:
        """What metrics/ingest.json says: counts; sizes in bytes; `ties_share` of the comparisons."""
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
        }

    def _refusal(self, candidate: Candidate, a: bytes, b: bytes) -> Refusal | None:
        if candidate.comparison_id in self.ids:
            return Refusal("duplicate", f"{candidate.comparison_id} was there before")
        for side, found in (("a", self.images[a]), ("b", self.images[b])):
            if isinstance(found, Refusal):
                return Refusal(found.reason, f"image {side}: {found.detail}")
        return Refusal("same_image", f"both are {a.hex()}") if a == b else None

    def _store(self, digest: bytes, data: bytes) -> None:
        header = self.images[digest]
        if isinstance(header, images.Header):
            self.writer.add_image(digest.hex(), data, *header)
            self.images[digest] = None
            self.stored += 1
            self.stored_bytes += len(data)

    def _count(self, comparison: Comparison) -> None:
        self.ids.add(comparison.comparison_id)
        self.answers[comparison.answer] += 1
        self.split_sizes[comparison.split] += 1
        self.prompts[comparison.split].add(_sha256(comparison.prompt.encode()))
        if comparison.rater_id is not None:
            self.raters.add(comparison.rater_id)


def look_at(data: bytes, max_pixels: int, max_bytes: int) -> images.Header | Refusal:
    """An image's header, after it was decoded to the end; or why it can't be used."""
    try:
        header = images.probe(data, max_pixels, max_bytes)
        images.verify(data, max_pixels)
    except images.ImageError as error:
        return Refusal(error.reason, error.detail)
    return header


def _prompt_key(prompt: str) -> bytes:
    """The same for prompts that differ only in case, spacing or Unicode form: they'd leak from one split to another."""
    text = " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())
    return _sha256(text.encode())


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
