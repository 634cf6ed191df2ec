"""A CLIP in training: which of its weights learn, how it scores pairs, and the folder that is published.

Legend: B preferences or images, S side of the squares, L tokens, D width of the embeddings.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diffalign.config.reward_models import RewardModel
from diffalign.core.errors import UserError
from diffalign.core.files import disk_errors
from diffalign.models.parts import weights
from diffalign.models.parts.encoders import clip_tokens
from diffalign.rewards.parts import clip, folders
from diffalign.rewards.parts.pixels import clip_square, normalised, unit

COPIED = (*folders.TOKENIZER, "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
"""Files of the init's folder that the published one has too, where they are there."""
LAST_NORM = {"vision_model": "post_layernorm", "text_model": "final_layer_norm"}
"""Behind the layers of each tower."""
CHUNK = 4096
"""Prompts that are tokenized at a time."""


@dataclass(frozen=True)
class Scorer:
    """Both towers, whose weights get gradients where they are trained; `precision` is a forward's, fp32 or bf16."""

    model: Any
    tokenizer: Any
    precision: str

    @property
    def side(self) -> int:
        """Returns S, in pixels."""
        return int(self.model.config.vision_config.image_size)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Returns the weights that are trained, by their names."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Returns the prompts' token ids [B, L], int32, on the CPU."""
        parts = [prompts[start : start + CHUNK] for start in range(0, len(prompts), CHUNK)]
        return torch.cat([clip_tokens(self.tokenizer, self.model.text_model, part).cpu().int() for part in parts])

    def images(self, pixels: Tensor) -> Tensor:
        """Returns embeddings [B, D] of length 1, float32, of pixels [B, 3, S, S] in [-1, 1]."""
        squares = normalised(clip_square(unit(pixels.to(self.model.device)), self.side))
        with self.autocast():
            found = self.model.get_image_features(pixel_values=squares).pooler_output
        return normalize(found.float(), dim=1)

    def texts(self, tokens: Tensor) -> Tensor:
        """Returns embeddings [B, D] of length 1, float32, of token ids [B, L]."""
        with self.autocast():
            found = self.model.get_text_features(input_ids=tokens.to(self.model.device).long()).pooler_output
        return normalize(found.float(), dim=1)

    def autocast(self) -> torch.autocast:
        """Returns the context of forward passes: in bfloat16, or as the weights are, in float32."""
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def load(name: str, settings: RewardModel, device: str, precision: str) -> Scorer:
    """Loads the CLIP that a reward model begins from, its weights in float32, those trained that the settings say.

    Raises UserError where its folder is broken, or has fewer layers than are to be trained.
    """
    loaded = clip.load(Path(settings.init), None, clip_square, 1, "cpu")
    model = loaded.model.to(device)
    model.requires_grad_(True)
    for tower, count in (
        ("vision_model", settings.trained_layers.vision),
        ("text_model", settings.trained_layers.text),
    ):
        freeze(f"reward_models.{name}.trained_layers.{tower.removesuffix('_model')}", model, tower, count)
    if settings.scale is not None:
        model.logit_scale.data.fill_(log(settings.scale))
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable()
        model.train()  # it does nothing in evaluation mode
        check_dropout(Path(settings.init), model.config)
    return Scorer(model, loaded.tokenizer, precision)


def freeze(key: str, model: Any, tower: str, count: int | None) -> None:
    """Leaves only the last `count` layers of a tower and the norm behind them to be trained; None: all of the tower."""
    if count is None:
        return
    part = getattr(model, tower)
    layers = part.encoder.layers
    if count > len(layers):
        raise UserError(f"{key}: expected at most the {len(layers)} layers that the init has, got {count}")
    part.requires_grad_(False)
    for trained in [*layers[len(layers) - count :], *([getattr(part, LAST_NORM[tower])] if count else [])]:
        trained.requires_grad_(True)


def check_dropout(folder: Path, config: Any) -> None:
    """Raises UserError where a CLIP has dropout: its draws would differ after a resume."""
    for section in ("text_config", "vision_config"):
        if share := getattr(config, section).attention_dropout:
            raise UserError(
                f"{folder / 'config.json'}: {section}.attention_dropout: expected 0 with gradient_checkpointing, found "
                f"{share}. Set it to 0, or gradient_checkpointing to false."
            )


def restore(scorer: Scorer, tensors: Mapping[str, Tensor]) -> None:
    """Gives the trained weights the values of some tensors, by their names."""
    with torch.no_grad():
        for name, value in scorer.trained.items():
            value.copy_(tensors[name])


def save(scorer: Scorer, init: Path, out: Path) -> None:
    """Writes the folder that transformers' CLIPModel and CLIPTokenizer load: float32 safetensors, config, tokenizer.

    Raises UserError for weights that aren't finite.
    """
    if broken := [name for name, value in scorer.trained.items() if not weights.finite(value.detach())]:
        raise UserError(
            f"expected finite weights after training, found NaN or infinity in {len(broken)} tensors, {broken[0]} for "
            "one: nothing is published. Lower the reward model's lr."
        )
    with disk_errors(out):
        scorer.model.save_pretrained(out)
        for name in COPIED:
            if (init / name).is_file():
                shutil.copyfile(init / name, out / name)
    weights.sort_metadata(out / folders.WEIGHTS)
    weights.note(out)
