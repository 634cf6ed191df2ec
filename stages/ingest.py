"""ingest: turns raw preference rows into comparisons, rejects and unique images."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.core import files
from diffalign.data import ingest, splits
from diffalign.data.comparisons.writer import Writer
from diffalign.data.ledger import Ledger
from diffalign.data.prompts import prompt_set
from diffalign.data.sources import source as sources

if TYPE_CHECKING:
    from diffalign.config.params import Params

OUT, METRICS = Path("data/comparisons"), Path("metrics/ingest.json")


def run(params: "Params") -> None:
    """Writes `data/comparisons` and `metrics/ingest.json` from the raw rows at data.path.

    Raises UserError for data that isn't as data.source expects, a damaged file, names that leave a split open, a full
    disk, a prompt set that isn't there, and where no row can be used; nothing is left in `data/comparisons` then.
    """
    data = params.data
    source = sources.load(data.source, Path(data.path), data.settings)
    dropped = [(prompt.text, name) for name in data.drop_prompts_of for prompt in prompt_set.load(name)]
    prompts = splits.PromptSplits(source.claims(), data.validation, data.test, dropped)
    examine = partial(ingest.examine, max_pixels=data.max_image_pixels, max_bytes=data.max_image_bytes)
    work = files.RUNS / "ingest"
    work.mkdir(parents=True, exist_ok=True)
    with files.lock(work):
        with Writer(OUT) as writer:
            ledger = Ledger(writer, data.source, prompts, data.repeats, ingest.REASONS | dict(source.reasons))
            ingest.ingest(source, ledger, examine)
        files.write_json(METRICS, ledger.metrics() | source.about() | {"simulated": source.simulated})
