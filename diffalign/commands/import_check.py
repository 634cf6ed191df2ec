"""Checks imported rows as ingest will: which become comparisons, and whether enough prompts are held out."""

import sys
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from diffalign.core import files
from diffalign.data import ingest, splits
from diffalign.data.comparisons import table as comparisons
from diffalign.data.comparisons.writer import Writer
from diffalign.data.ledger import Ledger
from diffalign.data.prompts import prompt_set
from diffalign.data.sources.source import Source

if TYPE_CHECKING:
    from diffalign.config.params import Data

WORK = files.RUNS / "import"
LARGE = 10_000
"""Comparisons from which on the shares of held-out prompts are left as params have them."""
LEAST = 3
"""Prompts of validation and of test at least, where the shares decide."""


class Checked(NamedTuple):
    """The ledger of all rows, the rejects (`REJECT_SCHEMA`), and the prompts of small data, in the rows' order."""

    ledger: Ledger
    rejects: pa.Table
    prompts: list[str]


def check(source: Source, data: "Data") -> Checked:
    """Returns what ingest would make of a source, but for filters; images are examined, none is written."""
    dropped = [(prompt.text, name) for name in data.drop_prompts_of for prompt in prompt_set.load(name)]
    prompts = splits.PromptSplits(source.claims(), data.validation, data.test, dropped)
    examine = partial(ingest.examine, max_pixels=data.max_image_pixels, max_bytes=data.max_image_bytes)
    WORK.mkdir(parents=True, exist_ok=True)
    with files.lock(WORK):
        folder = WORK / "comparisons"
        with Writer(folder, keep_images=False) as writer:
            reasons = ingest.REASONS | dict(source.reasons)
            ledger = Ledger(writer, "import", prompts, data.repeats, reasons, near_duplicates=data.near_duplicates)
            ingest.ingest(source, ledger, examine, "import")
        rejects = pq.read_table(folder / comparisons.REJECTS)
        small = ledger.answers.total() < LARGE
        found = comparisons.read(folder)["prompt"].to_pylist() if small else []
        files.remove(folder)
    return Checked(ledger, rejects, list(dict.fromkeys(found)))


def larger_shares(checked: Checked, data: "Data") -> dict[str, float]:
    """Returns `validation` and `test` of data by which small data holds LEAST prompts out in each; none if it does."""
    held_out = [len(checked.ledger.prompts[split]) for split in comparisons.SPLITS[1:]]
    if not checked.prompts or min(held_out) >= LEAST:
        return {}
    try:
        validation, test = splits.shares_for(checked.prompts, LEAST, data.validation, data.test)
    except ValueError:
        sys.stderr.write(
            f"import: {len(checked.prompts)} prompts are too few to hold {LEAST} out for validation and {LEAST} for "
            "test: figures on them will say little\n"
        )
        return {}
    return {"validation": validation, "test": test}
