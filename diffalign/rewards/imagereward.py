"""ImageReward (Xu et al. 2023, arXiv 2304.05977): a BLIP that learnt from experts' rankings of images for a prompt.

Score: the head's, minus the mean and over the standard deviation that the authors measured; about -2 to 2.
Preprocessing: CLIP's, short side to 224 bicubic, the middle cut out. Template: the prompt, lower-cased, cut to 35
tokens, which cuts more than one in five prompts of Pick-a-Pic. Licence: Apache-2.0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffalign.models.parts.loading import load_tokenizer
from diffalign.rewards.parts import blip, clip, folders
from diffalign.rewards.parts.folders import Published
from diffalign.rewards.parts.pixels import normalised, openai_square, unit
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.imagereward import Settings

SOURCES = (
    Published("zai-org/ImageReward", (folders.WEIGHTS,), checkpoint="ImageReward.pt"),
    Published("google-bert/bert-base-uncased", ("vocab.txt",)),
)
TOKENS = 35
"""Of a prompt, its two special ones among them."""
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the head's scores, as the authors measured them."""


@dataclass(frozen=True)
class ImageReward:
    """Scores without bounds; gradients reach the pixels. `weight` [D] and `bias` are the head."""

    vision: Any
    text: Any
    tokenizer: Any
    weight: Tensor
    bias: float
    batch_size: int
    version: str
    name = "imagereward"
    range = (-math.inf, math.inf)
    families = ("imagerewarddb",)
    differentiable = True
    trained_on = (
        "ImageRewardDB's training rankings: experts', of images that diffusion models of 2022 made; from BLIP. "
        "In-family: policies that learnt from ImageRewardDB."
    )

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores [B], float32, of images [B, 3, H, W] in [-1, 1]; see `Reward`."""
        if len(prompts) != len(pixels):
            raise ValueError(f"expected a prompt for each of {len(pixels)} images, got {len(prompts)}")
        size = self.batch_size
        parts = [self.read(pixels[i : i + size], prompts[i : i + size]) for i in range(0, len(prompts), size)]
        return (torch.cat(parts) @ self.weight + self.bias - MEAN) / STD

    def scores(self, pixels: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Returns the score and `imagereward_tokens_cut`, how many tokens of each prompt weren't read, each [B]."""
        found = self.tokenizer(list(prompts), truncation=False, padding=False, verbose=False).input_ids
        cut = torch.tensor([max(len(tokens) - TOKENS, 0) for tokens in found])
        return {self.name: self(pixels, prompts), f"{self.name}_tokens_cut": cut}

    def read(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns the text tower's first state [B, D], float32, after it read the prompts and saw the images."""
        images = normalised(openai_square(unit(pixels.to(self.vision.device)), self.vision.config.image_size))
        seen = self.vision(pixel_values=images.to(self.vision.dtype)).last_hidden_state
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(self.text.device)
        states = self.text(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, encoder_hidden_states=seen
        ).last_hidden_state
        first: Tensor = states[:, 0].float()
        return first


def check(settings: "Settings") -> None:
    """Raises UserError unless its files are there; they aren't read."""
    folders.present(ImageReward.name, Path(settings.path), SOURCES)


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Loads ImageReward from its folder; UserError where a file is missing, damaged, or another reward's."""
    from transformers import BertTokenizer

    folder = Path(settings.path)
    folders.check(ImageReward.name, settings, SOURCES)
    file = folder / folders.WEIGHTS
    folders.check_converted(ImageReward.name, file)
    vision, text, weight, bias = blip.load(file, device, clip.precision(device))
    tokenizer = load_tokenizer(BertTokenizer, folder, text.config.vocab_size, (("vocab.txt",),))
    version = folders.version(1, (file,), clip.precision(device))
    return ImageReward(vision, text, tokenizer, weight, bias, settings.batch_size, version)
