"""card: comparisons in; a data card out: who answered what, how far it can be trusted, what is small or odd."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.core import records
from diffalign.data.comparisons import table as comparisons
from diffalign.evaluation import data_card, data_facts

if TYPE_CHECKING:
    from diffalign.config.params import Params

COMPARISONS, METRICS = Path("data/comparisons"), Path("metrics/ingest.json")
COUNTED = ("rows", "rejects", "splits", "split_prompts")


def run(params: "Params") -> None:
    """Writes `metrics/data_card.json`. Raises UserError where the comparisons, or their counts, are missing or damaged.

    It's apart from ingest, so that an edit of what a card says reads no raw row again.
    """
    counted = records.plain(METRICS, COUNTED, "Make it again: dvc repro --force ingest")
    found = data_facts.card(comparisons.read(COMPARISONS), COMPARISONS, counted)
    records.write(data_card.FILE, found)
    sys.stderr.write(f"{data_card.FILE}: the report shows it; {len(found.odd) or 'nothing'} small or odd\n")
