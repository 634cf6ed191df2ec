"""How many pairs each policy learns from: the raters', or its round's; about as many, before they are made."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.config.rounds import FOLDER
from diffalign.config.training import Trained
from diffalign.data.batches.pairs import make_pairs
from diffalign.data.comparisons import table as comparisons
from diffalign.data.sources import source as sources
from diffalign.planning import rounds

if TYPE_CHECKING:
    from diffalign.config.params import Params

COMPARISONS = Path("data/comparisons")


@dataclass(frozen=True)
class Pairs:
    """How many pairs there are to learn from; `exact` is false before they are made, when others are counted."""

    number: float
    exact: bool

    def epochs(self, seen: int) -> str:
        """Returns how often training sees each pair."""
        about = "" if self.exact else "about "
        return f"{seen / max(self.number, 1):.3g} epochs of {about}{self.number:,.0f}"


def pairs_of(params: "Params", policy: Trained, base: Pairs | None) -> Pairs | None:
    """Returns the pairs that a policy learns from: its round's, its own raters', else those of all raters, `base`."""
    if policy.round is not None:
        return of_round(params, policy.round, base, policy.raters or ())
    return known_pairs(params, policy.raters) if policy.raters else base


def known_pairs(params: "Params", raters: Collection[str] = ()) -> Pairs | None:
    """Returns the train split's pairs after ingest, before it about as many as the source has rows; None without data.

    `raters`: theirs alone, None before ingest; else those of `pairs.raters`. Raises UserError, as ingest will, for data
    that isn't as `data.source` expects.
    """
    data, how = Path(params.data.path), params.pairs
    if not data.exists():
        return None  # what was made of other data says nothing of these
    if (COMPARISONS / "comparisons.parquet").exists():
        table = comparisons.read(COMPARISONS)
        found = make_pairs(
            table, "train", how.rule, raters or how.raters, flagged=how.flagged, axes=how.axes, ties=how.ties
        )
        return Pairs(len(found), True)
    if raters or how.raters:
        return None
    rows = sources.load(params.data.source, data, params.data.settings).rows
    return Pairs(rows * (1 - params.data.validation - params.data.test), False)


def of_round(params: "Params", name: str, base: Pairs | None, raters: Collection[str] = ()) -> Pairs:
    """Returns the pairs that policies of a round have, its labels before it is made; `base`: those of the raters.

    `raters`: theirs alone, once it is made.
    """
    one, how = params.rounds[name], params.pairs
    folder = Path(FOLDER) / name / "comparisons"
    if (folder / comparisons.COMPARISONS).exists():
        found = make_pairs(comparisons.read(folder), "train", how.rule, raters, flagged=how.flagged, ties=how.ties)
        return Pairs(len(found), True)
    own = sum(rounds.labels(params.rounds[other]) for other in (name, *one.with_rounds))
    return Pairs(own + (base.number if one.with_base and base else 0), False)
