"""Folders of tiny random weights for the rewards that have weights, and tiny networks in place of their backbones."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffalign.core import records
from diffalign.core.files import sha256_file
from diffalign.rewards.parts import blip, card, clip, convert, head
from tests.helpers import open_blip, open_clip
from tests.helpers.tiny import write_vocabulary

ACTIVATIONS = {"ViT-H/14": "gelu", "ViT-L/14": "quick_gelu"}
BACKBONES = {
    "aesthetic_v2": "ViT-L/14",
    "clip_score_h14": "ViT-H/14",
    "clip_score_l14": "ViT-L/14",
    "hpsv2": "ViT-H/14",
    "hpsv2_1": "ViT-H/14",
    "imagereward": "BLIP",
    "learned": "ViT-H/14",
    "pickscore": "ViT-H/14",
}
"""Of each reward with weights."""
UNKNOWN = card.Accuracy(accuracy=None, ci_low=None, ci_high=None, loss=None, pairs=0)
CARD = card.Card(
    name="mine",
    preferences=2,
    ties=0,
    prompts=1,
    images=3,
    raters=[],
    sha256="0",
    step=1,
    before=UNKNOWN,
    validation=UNKNOWN,
    settings={"init": "clip"},
    init_fingerprint="0",
    environments=[],
)
"""What a reward model that was trained here says of itself."""


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Makes the rewards expect tiny networks."""
    for tower, values in open_blip.SIZES.items():
        patch.setitem(blip.SIZES, tower, values)
    for backbone, activation in ACTIVATIONS.items():
        patch.setitem(clip.BACKBONES, backbone, open_clip.sizes(activation))


def make(name: str, folder: Path, seed: int = 1) -> Path:
    """Writes a reward's folder: from the published kind of checkpoint where it's converted. For shrunk backbones."""
    state = open_clip.random_state(seed)
    if name == "imagereward":
        open_blip.write_vocabulary(folder)
        converted(name, open_blip.random_state(seed), folder)
    elif name in ("hpsv2", "hpsv2_1"):
        write_vocabulary(folder)
        converted(name, {"epoch": 1, "state_dict": state}, folder)
    else:
        open_clip.make_folder(folder, state, ACTIVATIONS[BACKBONES[name]])
    if name == "learned":
        records.write(folder / card.FILE, CARD)
    if name == "aesthetic_v2":
        converted(name, random_head(seed), folder)
    return folder


def converted(name: str, checkpoint: object, folder: Path) -> None:
    """Saves a checkpoint as its publisher did, and converts it."""
    path = folder / "published.pt"
    torch.save(checkpoint, path)
    convert.convert(name, path, folder, sha256_file(path))


def random_head(seed: int) -> dict[str, Tensor]:
    """The aesthetic predictor's five layers for embeddings of the tiny network."""
    draws = torch.Generator().manual_seed(seed)
    sizes = head.shapes(open_clip.OUT)
    return {name: torch.randn(size, generator=draws) / max(size[-1], 2) ** 0.5 for name, size in sizes.items()}
