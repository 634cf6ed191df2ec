"""Folders of tiny random weights for the rewards that have weights, and tiny networks in place of their backbones."""

from pathlib import Path

import pytest

from diffalign.rewards.parts import clip
from tests.helpers import open_clip

ACTIVATIONS = {"ViT-H/14": "gelu", "ViT-L/14": "quick_gelu"}
BACKBONES = {"clip_score_h14": "ViT-H/14", "clip_score_l14": "ViT-L/14", "pickscore": "ViT-H/14"}
"""Of each reward with weights."""


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Makes the rewards expect tiny networks."""
    for backbone, activation in ACTIVATIONS.items():
        patch.setitem(clip.BACKBONES, backbone, open_clip.sizes(activation))


def make(name: str, folder: Path, seed: int = 1) -> Path:
    """Writes a reward's folder."""
    return open_clip.make_folder(folder, open_clip.random_state(seed), ACTIVATIONS[BACKBONES[name]])
