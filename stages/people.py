"""people: votes and images in; win rates by people out, and how far the votes can be trusted."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.core import records
from diffalign.data import votes
from diffalign.evaluation import people, people_results
from diffalign.evaluation.intervals import Interval
from diffalign.generation import gallery as galleries

if TYPE_CHECKING:
    from diffalign.config.params import Params

VOTES, IMAGES = Path("data/votes"), Path("images")


def run(params: "Params") -> None:
    """Writes `metrics/people.json`; without votes it says that there are none."""
    settings = params.evaluate
    found = votes.read(VOTES)
    names = sorted(params.policies, key=lambda name: name != settings.baseline)  # the baseline first
    shown = {name: {entry.sha256 for entry in galleries.read(IMAGES / name).entries} for name in names}
    interval = Interval(settings.bootstrap, settings.confidence, settings.seed)
    results = people.judge(found, shown, interval)
    records.write(people_results.FILE, results)
    left_out = {
        "of raters who failed the checks": results.checks.votes_left_out,
        "on images that aren't there any more": results.other_images,
        "skipped": results.skipped,
    }
    said = "".join(f"; left out: {count} {why}" for why, count in left_out.items() if count)
    sys.stderr.write(f"people: {results.votes} votes of {results.raters} raters{said}\n")
