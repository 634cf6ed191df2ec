"""How many of a policy's images a filter flags, beside the baseline's: a reward's score below a threshold."""

from collections.abc import Mapping

import numpy as np

from diffalign.evaluation.audits import differences
from diffalign.evaluation.audits.findings import Estimated, Flagged
from diffalign.evaluation.bootstrap import Estimate, Floats
from diffalign.generation.gallery import Gallery


def flags(scores: Floats, below: float) -> Floats:
    """Returns 1 where a score is below the threshold, 0 where it isn't, NaN where it's missing: [N] from [N]."""
    return np.where(np.isnan(scores), np.nan, scores < below)


def compare(
    name: str, baseline: str, galleries: Mapping[str, Gallery], flagged: Mapping[str, Floats], confidence: float
) -> list[Flagged]:
    """Compares every policy with the baseline by one filter, in each set of prompts; `flagged` by policy, [N]."""
    found = []
    sets = list(dict.fromkeys(entry.set for entry in galleries[baseline].entries))
    for policy in galleries:
        for group in sets if policy != baseline else []:
            found.append(_row(name, policy, baseline, group, galleries[baseline], flagged, confidence))
    return found


def _row(
    name: str,
    policy: str,
    baseline: str,
    group: str,
    gallery: Gallery,
    flagged: Mapping[str, Floats],
    confidence: float,
) -> Flagged:
    inside = np.array([entry.set == group for entry in gallery.entries])
    known = inside & ~np.isnan(flagged[policy]) & ~np.isnan(flagged[baseline])
    after, before = flagged[policy][known], flagged[baseline][known]
    prompts = [entry.prompt_index for entry, kept in zip(gallery.entries, known, strict=True) if kept]
    estimate = differences.of_rates(after, before, prompts, confidence) if prompts else None
    return Flagged(
        policy=policy,
        baseline=baseline,
        filter=name,
        set=group,
        images=len(prompts),
        missing=int(inside.sum()) - len(prompts),
        prompts=len(set(prompts)),
        flagged=int(after.sum()),
        baseline_flagged=int(before.sum()),
        difference=estimated(estimate),
    )


def estimated(found: Estimate | None) -> Estimated:
    """Returns an estimate as the file has it: None for what can't be told."""
    values = (None,) * 3 if found is None else (found.value, found.low, found.high)
    value, low, high = (None if v is None or np.isnan(v) else float(v) for v in values)
    return Estimated(value=value, low=low, high=high)
