"""Keeps splits apart: a prompt is in one split only, and an image too."""

import hashlib
import math
import unicodedata
from collections.abc import Collection, Iterable

from diffalign.data.comparisons.table import SPLITS, Split
from diffalign.data.comparisons.writer import Reject
from diffalign.data.near import Index
from diffalign.data.sources.source import Candidate

REASONS = {
    "prompt_in_other_split": "the source has this prompt also in a split held out from this row's",
    "prompt_of_evaluation_set": "the prompt is one of an evaluation set, kept out of training by data.drop_prompts_of",
    "image_in_other_split": "one of its images is also in a split held out from this row's, under another prompt",
    "near_image_in_other_split": "one of its images looks like one in a split held out (data.near_duplicates)",
}
"""Reject codes of this module. Of the splits test is held out from the others, validation from train."""


class PromptSplits:
    """Assigns each prompt to one split, whatever its case and spacing.

    The source's own splits win; where it has a prompt in several, test before validation before train. Other prompts
    go by their hash, in the shares `validation` and `test`. `dropped` are prompts that no training row may have, each
    with the name of the set that it's of.
    """

    def __init__(
        self,
        claims: Iterable[tuple[str, Split]],
        validation: float,
        test: float,
        dropped: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.dropped = {normalised(prompt): name for prompt, name in dropped}
        self.validation, self.test = validation, test
        self.owners: dict[bytes, int] = {}
        for prompt, split in claims:
            key = normalised(prompt)
            self.owners[key] = max(self.owners.get(key, 0), SPLITS.index(split))

    def of(self, prompt: str) -> Split:
        """Returns the split of a prompt."""
        key = normalised(prompt)
        if key in self.owners:
            return SPLITS[self.owners[key]]
        share = place(key)
        return "test" if share < self.test else "validation" if share < self.test + self.validation else "train"

    def screen(self, record: Candidate | Reject) -> Candidate | Reject:
        """Returns the record, or a reject: the source has its prompt in another split, or it's kept out of training."""
        if isinstance(record, Reject):
            return record
        owner = self.of(record.prompt)
        if self.dropped and owner == "train" and (name := self.dropped.get(normalised(record.prompt))):
            return Reject(record.file, record.row, "prompt_of_evaluation_set", f"it's one of {name}")
        if record.split in (None, owner):
            return record
        detail = f"this is {record.split}, the prompt is in {owner}"
        return Reject(record.file, record.row, "prompt_in_other_split", detail)


class ImageSplits:
    """Assigns each image of a held-out comparison to one split: test before validation before train.

    All comparisons are noted before any is asked for: rows that come first may share an image with the last. An image
    of a validation row that a test row keeps out (`owner`) isn't held out by it. Images are identified by the SHA-256
    of their bytes; memory holds those of held-out comparisons. With `near`, images whose `hashes` differ in at most so
    many bits look alike (`lookalike`).
    """

    def __init__(self, near: int | None = None) -> None:
        self.near = near
        self.hashes: dict[bytes, int] = {}
        self.test: set[bytes] = set()
        self.pairs: list[tuple[bytes, bytes]] = []
        self.validation: set[bytes] | None = None
        self.indices: dict[Split, Index] = {}

    def note(self, split: Split, a: bytes, b: bytes) -> None:
        """Takes down a comparison's two images."""
        if split == "test":
            self.test |= {a, b}
        elif split == "validation":
            self.pairs.append((a, b))

    def owner(self, split: Split, a: bytes, b: bytes) -> Split:
        """Returns the split that a comparison's images belong to: its own, or the one that it must be kept out of."""
        owners = [name for name, images in self._held_out().items() if a in images or b in images]
        return max([split, *owners], key=SPLITS.index)

    def lookalike(self, split: Split, a: bytes, b: bytes) -> Split:
        """Returns the split held out that has an image which looks like one of a comparison's; else its own."""
        if self.near is None:
            return split
        self._held_out()
        above = [name for name in self.indices if SPLITS.index(name) > SPLITS.index(split)]
        return max([split, *(name for name in above if self._alike(name, a, b))], key=SPLITS.index)

    def _held_out(self) -> dict[Split, set[bytes]]:
        """Returns the images of test and of validation; the first call ends the noting."""
        if self.validation is None:
            self._index("test", self.test)
            kept = [pair for pair in self.pairs if self.test.isdisjoint(pair) and not self._alike("test", *pair)]
            self.validation = {image for pair in kept for image in pair}
            self._index("validation", self.validation)
        return {"test": self.test, "validation": self.validation}

    def _index(self, split: Split, images: set[bytes]) -> None:
        if self.near is not None:
            self.indices[split] = Index((self.hashes[image] for image in images), self.near)

    def _alike(self, split: Split, a: bytes, b: bytes) -> bool:
        index = self.indices.get(split)
        return index is not None and any(index.has(self.hashes[image]) for image in (a, b))


def place(key: bytes) -> float:
    """Returns a prompt's place in [0, 1) by its hash: test has those below its share, validation the next ones."""
    return int.from_bytes(key[:8], "big") / 2**64


def shares_for(prompts: Collection[str], least: int, validation: float, test: float) -> tuple[float, float]:
    """Returns the shares of validation and test, not below those given, by which each has at least so many prompts.

    They are rounded up to four digits. Raises ValueError for fewer prompts than leave as many for training, too.
    """
    places = sorted(place(normalised(prompt)) for prompt in prompts)
    if len(places) < 3 * least:
        raise ValueError(f"expected at least {3 * least} prompts, got {len(places)}")
    test = max(test, upwards(places[least - 1]))
    rest = [found for found in places if found >= test]
    if len(rest) < 2 * least:
        raise ValueError(f"a share of {test} for test leaves {len(rest)} prompts")
    return max(validation, upwards(rest[least - 1] - test)), test


def upwards(share: float) -> float:
    """Returns a share that is larger, with four digits."""
    return (math.floor(share * 1e4) + 1) / 1e4


def normalised(prompt: str) -> bytes:
    """Hashes a prompt to a value that case, spacing and Unicode form don't change: such variants would leak."""
    text = " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())
    return hashlib.sha256(text.encode()).digest()
