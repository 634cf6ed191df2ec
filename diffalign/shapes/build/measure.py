"""Measures the embedded models: how sharp the VAE is, how often each draws what a caption asks for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffalign.shapes import oracle
from diffalign.shapes.build import tiny_model
from diffalign.shapes.build.pretrain import psnr
from diffalign.shapes.scenes import Scene, caption, render, sample_scene

KINDS = ("single", "place", "relation", "number")


def run(models: Mapping[str, Path], images: int = 200, seed: int = 0) -> dict[str, Any]:
    """Returns the VAE's PSNR, and for each model the share of right pictures by kind of caption, and the oracle's mean.

    `images` of each kind, 20 DDIM steps, guidance 4. The models share a VAE.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = {name: tiny_model.load(folder, device) for name, folder in models.items()}
    scenes = {kind: scenes_of(kind, images, seed) for kind in KINDS}
    vae = next(iter(loaded.values())).vae
    shares: dict[str, Any] = {
        name: {kind: drawn(model, [caption(s) for s in scenes[kind]], seed) for kind in KINDS}
        for name, model in loaded.items()
    }
    ideal = [render(scene) for kind in KINDS for scene in scenes[kind]]
    return {"images": images, "seed": seed, "psnr": round(sharpness(vae, ideal), 2), "models": shares}


def scenes_of(kind: str, count: int, seed: int) -> list[Scene]:
    """Returns random scenes of a kind, functions of the seed and their number."""
    every = (sample_scene(np.random.default_rng((seed, 7, n))) for n in range(100 * count))
    return [scene for scene, _ in zip((s for s in every if s.kind == kind), range(count), strict=False)]


@torch.no_grad()
def sharpness(vae: Any, drawings: list[np.ndarray]) -> float:
    """Returns the mean PSNR in decibels of drawings, uint8 `[64, 64, 3]`, encoded and decoded."""
    pixels = torch.from_numpy(np.stack(drawings)).permute(0, 3, 1, 2).float() / 127.5 - 1
    again = vae.decode(vae.encode(pixels.to(vae.device)).latent_dist.mean).sample.clamp(-1, 1).cpu()
    return float(np.mean([psnr(float(error)) for error in (again - pixels).square().mean(dim=(1, 2, 3))]))


def drawn(model: tiny_model.Tiny, captions: list[str], seed: int, batch: int = 50) -> dict[str, float]:
    """Returns the share of captions for which the model draws just what is asked, `right`, and the oracle's mean."""
    right, scores = [], []
    for start in range(0, len(captions), batch):
        part = captions[start : start + batch]
        pictures = tiny_model.sample(model, part, [seed * 1_000_000 + start + n for n in range(len(part))])
        right += [oracle.is_right(picture, text) for picture, text in zip(pictures, part, strict=True)]
        scores += [oracle.score(picture, text).oracle for picture, text in zip(pictures, part, strict=True)]
    return {"right": round(float(np.mean(right)), 3), "oracle": round(float(np.mean(scores)), 3)}
