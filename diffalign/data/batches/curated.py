"""Curates images: keeps the best of the train split by votes or by a reward, as Emu's quality tuning does.

Dai et al. 2023, arXiv 2309.15807: a few thousand images of very high quality, fine-tuned on by themselves.
"""

import math
from collections import Counter
from collections.abc import Mapping

import pyarrow as pa

from diffalign.config.methods.sft import Curate
from diffalign.config.pairs import Pairs
from diffalign.data.batches.curated_file import Curated, KeptImage, Key
from diffalign.data.batches.image_labels import shares_of_votes
from diffalign.data.batches.votes import select
from diffalign.data.filters.flags import allowed, barred


def candidates(table: pa.Table, pairs: Pairs) -> list[Key]:
    """Returns the train split's images with their prompts, sorted, but for those that filters keep from winning."""
    rows = allowed(select(table, "train"), pairs.flagged)
    undesired = barred(rows, pairs.flagged)
    columns = (rows[name].to_pylist() for name in ("prompt", "image_a", "image_b"))
    found = {(image, prompt) for prompt, *both in zip(*columns, strict=True) for image in both}
    return sorted(key for key in found if key[0] not in undesired)


def by_votes(table: pa.Table, pairs: Pairs) -> dict[Key, float]:
    """Returns each candidate's expected share of votes, (won + 1) / (votes + 2), by the raters and axes of `pairs`.

    That's the mean of the share's posterior from a uniform prior (Laplace 1774): 1 of 1 won counts less than 3 of 3.
    A tie is half a vote, `both_bad` a lost one. An image without votes scores NaN.
    """
    rows = allowed(select(table, "train", pairs.raters, pairs.axes), pairs.flagged)
    shares = shares_of_votes(rows, pairs.axes)

    def expected(image: str, prompt: str) -> float:
        if not (given := shares.get((prompt, image))):
            return math.nan
        return (sum(share * heard for share, heard in given) + 1) / (sum(heard for _, heard in given) + 2)

    return {key: expected(*key) for key in candidates(table, pairs)}


def chosen(scores: Mapping[Key, float], settings: Curate, by: str, lowest: bool = False) -> Curated:
    """Keeps the top share `keep` of the scored images, at most `per_prompt` a prompt, none below `least`.

    The share is of all images with a score: with `per_prompt` fewer may be left. Equal scores are in the order of the
    images' hashes, which is as good as random. NaN is no score. `lowest` keeps the worst instead, as a control.
    """
    known = {key: score for key, score in scores.items() if not math.isnan(score)}
    order = sorted(known, key=lambda key: (known[key] if lowest else -known[key], key))
    most = math.ceil(settings.keep * len(known) - 1e-9)  # 0.07 * 100 is 7.000000000000001
    kept: list[KeptImage] = []
    of_prompt: Counter[str] = Counter()
    for rank, (image, prompt) in enumerate(order, 1):
        score = known[image, prompt]
        if len(kept) == most or (settings.least is not None and score < settings.least):
            break
        if settings.per_prompt is None or of_prompt[prompt] < settings.per_prompt:
            of_prompt[prompt] += 1
            kept.append(KeptImage(image=image, prompt=prompt, score=score, rank=rank))
    return Curated(by=by, images=len(scores), unscored=len(scores) - len(known), kept=tuple(kept))
