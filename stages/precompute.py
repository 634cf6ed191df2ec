"""precompute: encodes every image and prompt of the comparisons once, with the frozen encoders, into shards."""

from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.core import publishing
from diffalign.data.shards import precomputed
from diffalign.models.agreement import check_inits

if TYPE_CHECKING:
    from diffalign.config.params import Params

COMPARISONS, OUT = Path("data/comparisons"), Path("data/shards")


def run(params: "Params") -> None:
    """Writes `data/shards` from `data/comparisons`, going on after the last finished shard of a killed attempt.

    Raises UserError for a model folder that isn't one, an unreadable image, encodings that aren't finite, a full disk.
    """
    publishing.check_target(OUT)
    model, how = params.model, precomputed.How(**params.precompute.model_dump())
    inits = {f"policies.{name}.init": each.init for name, each in params.policies.items()}
    check_inits(model.family, model.path, inits)
    precomputed.make("precompute", COMPARISONS, OUT, (model.family, model.path), how, params.data.max_image_pixels)
