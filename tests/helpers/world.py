"""A small project of the shapes world for tests of what comes after training: real ingest, random models."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from diffalign.config.params import Params
from diffalign.core.files import write_json, write_text
from diffalign.generation.pipeline import png
from diffalign.shapes import scenes as shapes
from stages import ingest
from tests.helpers import pickapic
from tests.helpers.project import make_params
from tests.helpers.tiny import make_model

CAPTIONS = [
    f"a {size} {colour} {shape} on a {ground} background"
    for size in ("small", "large")
    for colour, ground in (("red", "white"), ("blue", "yellow"), ("green", "black"))
    for shape in ("circle", "square")
]
HOSTILE = [
    "<script>alert(1)</script>",
    "</style><style>body{display:none}</style>",
    "\"quoted\" 'text' &amp; <b>bold</b> onerror=alert(1)",
    "\u202eright to left \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "{{ 7 * 7 }} {% raw %} ../../etc/passwd",
]


ANSWERS = ("a", "a", "b", "a", "tie")
"""Of the test split's rows, in turn; the first image is the right drawing where the caption is of this world."""


def drawing(caption: str, number: int) -> bytes:
    """The ideal picture of a caption as PNG; some other picture where there is none."""
    scene = shapes.parse_caption(caption)
    return png(shapes.render(scene)) if scene else pickapic.image(number)


def make_world(folder: Path, policies: dict[str, Any], captions: list[str] = CAPTIONS, **changes: Any) -> Params:
    """Makes model/, model2/ (another denoiser), raw/, params.yaml and what ingest makes of them; works in the folder.

    Every caption has a row in the test split; three more stand in the train split.
    """
    make_model(folder / "model")
    other = make_model(folder / "other", seed=1)
    shutil.copytree(other / "unet", folder / "model2" / "unet")
    shutil.rmtree(other)
    train = [pickapic.row(100 + n, "ab"[n % 2]) for n in range(3)]
    test = [
        pickapic.row(n, ANSWERS[n % 5], caption=caption, jpg_0=drawing(caption, n), jpg_1=pickapic.image(1000 + n))
        for n, caption in enumerate(captions)
    ]
    pickapic.write(folder / "raw" / "train-00000-of-00001.parquet", train)
    pickapic.write(folder / "raw" / "test_unique-00000-of-00001.parquet", test)
    values = make_params(folder, policies, **changes)
    os.chdir(folder)
    ingest.run(values)
    return values


def publish_trained(name: str, policy: dict[str, Any], weights: Path) -> None:
    """What train leaves for a full policy: its denoiser, copied from a model folder, and a made-up curve."""
    folder = Path("models/policies") / name
    shutil.copytree(weights / "unet", folder / "unet")
    write_json(folder / "policy.json", {**policy, "adapter": "full", "schema": 1, "name": name})
    lines = [
        {
            "step": n,
            "loss": 0.69 - 0.01 * n,
            "implicit_accuracy": 0.5,
            "winner_change": -1e-4 * n,
            "loser_change": 2e-4 * n,
        }
        for n in range(1, 9)
    ]
    write_text(Path("curves") / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
