"""Policies' rendered images of the shapes world: what open prompts don't say comes from distributions of one's own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffalign.core.files import sha256_bytes, write_bytes
from diffalign.generation.gallery import Entry, Gallery
from diffalign.generation.pipeline import png
from diffalign.shapes import scenes

SIZES = ("small", "", "large")
OPEN = [f"a {c} {s} on a {g} background" for c in ("red", "blue") for s in scenes.SHAPES for g in ("white", "black")]


def make(
    folder: Path, policies: Mapping[str, Sequence[float]], prompts: Sequence[str], seed: int
) -> dict[str, Gallery]:
    """Draws each prompt's object small, middle or large with a policy's probabilities, one image a prompt."""
    rng, found = np.random.default_rng(seed), {}
    for name, shares in policies.items():
        entries = []
        for i, prompt in enumerate(prompts):
            scene = scenes.parse_caption(prompt)
            assert scene is not None
            drawn = replace(scene, objects=(replace(scene.objects[0], size=str(rng.choice(SIZES, p=shares))),))
            data = png(scenes.render(drawn))
            write_bytes(folder / name / f"{i}.png", data)
            about = {"prompt": prompt, "set": "test", "category": None, "prompt_index": i, "seed": 0}
            entries.append(Entry(file=f"{i}.png", sha256=sha256_bytes(data), **about))
        found[name] = Gallery(folder / name, {"policy": name}, tuple(entries))
    return found
