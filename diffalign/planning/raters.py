"""The raters that a policy with `rater_tokens` will have vectors of, before it's trained."""

from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.config.rounds import FOLDER, made_by
from diffalign.config.training import Trained
from diffalign.data.batches.votes import select
from diffalign.data.comparisons import table as comparisons
from diffalign.models import rater_tokens
from diffalign.planning.pairs import COMPARISONS

if TYPE_CHECKING:
    from diffalign.config.params import Params


def known(params: "Params", policy: Trained) -> set[str] | None:
    """Returns the raters whose vectors a policy will have: its init's and those it learns from; None: not known yet."""
    own, before = learned_from(params, policy), of_init(params, policy.init)
    return None if own is None or before is None else own | before


def learned_from(params: "Params", policy: Trained) -> set[str] | None:
    """Returns the raters of a policy's training pairs; before these are there, those that are named, None without."""
    named, folder = policy.raters or params.pairs.raters, COMPARISONS
    if policy.round is not None:
        folder = Path(FOLDER) / policy.round / COMPARISONS.name
    if not (folder / comparisons.COMPARISONS).exists():
        return set(named) or None
    found = select(comparisons.read(folder), "train", named, params.pairs.axes)["rater_id"].unique().to_pylist()
    return set(found) - {None}


def of_init(params: "Params", init: str) -> set[str] | None:
    """Returns the raters whose vectors an init has, or will have once it's trained; None: not known yet."""
    before = params.policies.get(made_by(init) or "")
    if isinstance(before, Trained):
        return known(params, before) if before.rater_tokens else set()
    if before is not None:
        return of_init(params, before.init)  # an untrained policy has its init's
    there = rater_tokens.read(Path(init))
    return set(there.ids) if there else set()
