"""Rebuilds `assets/`: the models, the CLIP, the comparisons of their pictures, and the log of what was measured."""

import platform
import time
from pathlib import Path

import torch

from diffalign.core import records
from diffalign.core.files import write_json
from diffalign.shapes.build import measure, pretrain, raters, tiny_clip

LOG = Path("assets/pretraining.json")


def run(seed: int, keep_model: bool) -> None:
    """Trains the models unless they are kept, asks the raters, and notes figures, hardware and versions in LOG."""
    found = records.plain(LOG, ("measured",), "Rebuild the models too: leave out --keep-model.") if keep_model else {}
    if not keep_model:
        start = time.monotonic()
        pretrain.run(seed=seed)
        found = {
            "seed": seed,
            "seconds": round(time.monotonic() - start),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "measured": measure.run(raters.MODELS),
        }
        start = time.monotonic()
        tiny_clip.run(seed=seed)
        found["clip"] = {"seconds": round(time.monotonic() - start), **tiny_clip.measure(seed=seed)}
    write_json(LOG, {**found, "comparisons": raters.run(seed=seed)})
