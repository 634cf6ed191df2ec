"""Turns a source's raw rows into comparisons, rejects and unique images: each row is one of the first two.

It streams: in memory are a batch of rows, a row group of images, and hashes of every image, comparison, answer and
prompt (0.5 GB for the 959,040 rows of Pick-a-Pic v2). Decoding takes most of the time and runs on all cores.
"""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from diffalign.core.progress import Progress
from diffalign.data import images, near, splits
from diffalign.data.ledger import REASONS as LEDGER_REASONS
from diffalign.data.ledger import Ledger, Refusal
from diffalign.data.sources.source import Candidate, Source

REASONS = images.REASONS | splits.REASONS | LEDGER_REASONS
"""Reasons to reject a row of any source, by the code in rejects.parquet; a source has `reasons` of its own beside."""

Examine = Callable[[bytes], images.Header | Refusal]


def ingest(source: Source, ledger: Ledger, examine: Examine, what: str = "ingest") -> None:
    """Enters every record of the source into the ledger, in order; images are hashed and decoded in threads.

    `what` is the name of the progress.
    """
    progress = Progress(what, source.rows)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for records in source.records():
            entries = [ledger.splits.screen(record) for record in records]
            shown = [data for e in entries if isinstance(e, Candidate) for data in (e.bytes_a, e.bytes_b)]
            digests = list(pool.map(_sha256, shown))
            fresh = {digest: data for digest, data in zip(digests, shown, strict=True) if digest not in ledger.images}
            ledger.images.update(zip(fresh, pool.map(examine, fresh.values()), strict=True))
            usable = {d: data for d, data in fresh.items() if isinstance(ledger.images[d], images.Header)}
            for digest, data in usable.items():
                ledger.screen.look(digest, data)
            if ledger.image_splits.near is not None:
                look = partial(_looks, max_pixels=ledger.screen.max_pixels)
                ledger.image_splits.hashes.update(zip(usable, pool.map(look, usable.values()), strict=True))
            sides = iter(digests)
            for entry in entries:
                if isinstance(entry, Candidate):
                    ledger.enter(entry, next(sides), next(sides))
                else:
                    ledger.reject(entry)
            progress.update(len(records))
    ledger.settle()
    ledger.check(source.rows)


def examine(data: bytes, max_pixels: int, max_bytes: int) -> images.Header | Refusal:
    """Returns an image's header, after it was decoded to the end; or why it can't be used."""
    try:
        header = images.probe(data, max_pixels, max_bytes)
        images.verify(data, max_pixels)
    except images.ImageError as error:
        return Refusal(error.reason, error.detail)
    return header


def _looks(data: bytes, max_pixels: int) -> int:
    return near.dhash(images.decode(data, max_pixels))


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
