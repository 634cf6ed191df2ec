"""ingest: turns raw preference rows into comparisons, rejects and unique images."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffalign.config.filters import Filter, Words
from diffalign.core import files
from diffalign.data import closing, ingest, splits
from diffalign.data.comparisons.writer import Writer
from diffalign.data.filters import words
from diffalign.data.filters.screen import ImageFilter, Screen
from diffalign.data.ledger import Ledger
from diffalign.data.prompts import prompt_set
from diffalign.data.sources import source as sources

if TYPE_CHECKING:
    from diffalign.config.params import Params

OUT, METRICS = Path("data/comparisons"), Path("metrics/ingest.json")


def run(params: "Params") -> None:
    """Writes `data/comparisons` and `metrics/ingest.json` from the raw rows at data.path.

    Raises UserError for data that isn't as data.source expects, a damaged file, names that leave a split open, a full
    disk, a prompt set that isn't there, and where no row can be used, or no vote learned from; nothing is left in
    `data/comparisons` then.
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
            reasons = ingest.REASONS | dict(source.reasons)
            filters = screen(params)
            ledger = Ledger(writer, data.source, prompts, data.repeats, reasons, filters, data.near_duplicates)
            ingest.ingest(source, ledger, examine)
            closing.check_rejects(ledger, data.max_rejects, sources.intended(source))
            sources.check_splits(source, ledger.split_sizes)
        files.write_json(METRICS, ledger.metrics() | source.about() | {"simulated": source.simulated})
    if alike := ledger.rejects["near_image_in_other_split"]:
        sys.stderr.write(f"ingest: {alike:,} comparisons show an image that looks like a held-out one: rejected\n")
    sys.stderr.writelines(f"careful: {line}.\n" for line in ledger.odd())
    training = params.training
    sys.stderr.write(f"ingest: {closing.sentence(ledger, training.steps, training.batch_size)}\n")


def screen(params: "Params") -> Screen:
    """Returns the filters of `data.filters`: words of prompts, and rewards of images, which are given no prompt."""
    asked = params.data.filters
    by_words = {n: words.load(Path(one.words)) for n, one in asked.items() if isinstance(one, Words)}
    by_reward = {n: image_filter(one) for n, one in asked.items() if isinstance(one, Filter)}
    return Screen(params.data.max_image_pixels, by_words, by_reward)


def image_filter(settings: Filter) -> ImageFilter:
    """Loads a reward as a filter: an image with a score below the threshold is unsafe, one without unknown."""
    from diffalign.rewards import reward as rewards  # PyTorch, which most ingests do without
    from diffalign.runtime.environment import default_device

    reward = rewards.load(settings.reward, settings.settings, default_device())

    def unsafe(pixels: NDArray[np.uint8]) -> bool | None:
        score = float(rewards.score_images(reward, [pixels], [""])[settings.reward][0])
        return None if np.isnan(score) else score < settings.below

    return unsafe
