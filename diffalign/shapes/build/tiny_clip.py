"""Builds `assets/tiny-clip`: a CLIP of the shapes world, in transformers' layout, where reward models begin.

It is pretrained contrastively (Radford et al. 2021, arXiv 2103.00020) on drawings and their captions. Each scene stands
beside one that differs in one word, and each drawing beside a careless one of the same scene, so that the cosine tells
of words and of care. No picture of a model, no rater and no oracle takes part.
Legend: `B` scenes, half of them edited copies of the other half; `L` tokens.
"""

import os
import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from diffalign.core.files import lock, work_folder, write_json, write_text
from diffalign.core.publishing import publish
from diffalign.shapes.build import tiny_model
from diffalign.shapes.build.fit import Loss, fit
from diffalign.shapes.build.tiny_model import TOKENS, WIDTH
from diffalign.shapes.scenes import (
    CARELESS,
    COLOURS,
    GOOD,
    NUMBERS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Flaws,
    Scene,
    caption,
    flawed_layout,
    render,
    sample_scene,
)

SIDE, PATCH, LAYERS = 64, 8, 4
SPOILT = replace(CARELESS, often=0.6, fade=(0.2, 0.75), specks=6)
"""Flaws of the careless drawings, some of them hard to see."""
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": SIDE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": OPENAI_CLIP_MEAN,
    "image_std": OPENAI_CLIP_STD,
    "do_convert_rgb": True,
}
"""CLIP's preprocessing, for transformers' CLIPProcessor."""


def run(
    out_dir: Path = Path("assets/tiny-clip"),
    model: Path = Path("assets/tiny-sd"),
    seed: int = 0,
    steps: int = 1400,
    scenes: int = 96,
) -> None:
    """Builds the CLIP in `out_dir`, replaced whole, on a CPU; its text tower begins as the one of `model`.

    A killed run goes on. `scenes` are those of a step. It took 35 minutes on less than half of a CPU core.
    """
    torch.set_flush_denormal(True)
    text = model / "text_encoder" / "model.safetensors"
    work = work_folder("pretrain", {"clip": seed, "steps": steps, "scenes": scenes}, [text])
    with lock(work):
        torch.manual_seed(seed)
        clip = new_clip(tiny_model.load(model).text_encoder)
        loss = matching(clip, tiny_model.new_tokenizer(), seed, scenes)
        average = fit("clip", clip, loss, steps=steps, checkpoint=work / "clip.safetensors", ema_decay=0.995)
        clip.load_state_dict(average)
        write_clip(out_dir, clip)
        shutil.rmtree(work)


def new_clip(text: Any) -> Any:
    """Returns an untrained CLIPModel for 64 px with a copy of a text tower: 1.1M parameters, 0.08 GFLOP an image."""
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
        "projection_dim": WIDTH,
        "hidden_act": "gelu",
    }
    clip = CLIPModel(CLIPConfig(text_config=text.config.to_dict(), vision_config=vision, projection_dim=WIDTH))
    own = text.state_dict()
    clip.text_model.load_state_dict({key.removeprefix("text_model."): value for key, value in own.items()})
    return clip


def matching(clip: Any, tokenizer: Any, seed: int, count: int) -> Loss:
    """Returns the contrastive loss as a function of the step, each with `count` scenes of its own."""

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        pixels, captions = clip_batch(seed + 11, step * count, count)
        images = image_embeddings(clip, pixels)
        cosines = text_embeddings(clip, tokenizer, captions) @ images.T
        value = contrastive(clip.logit_scale.exp().clamp(max=100) * cosines)
        best = (cosines.argmax(dim=1) == torch.arange(count)).float().mean()
        return value, {"found": best.item()}

    return loss


def contrastive(logits: Tensor) -> Tensor:
    """Returns the mean of both cross-entropies of captions and drawings that belong together.

    `logits` [B, B + S]: caption i belongs to drawing i; the S careless drawings belong to none, and are among what a
    caption chooses from.
    """
    target = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, target) + cross_entropy(logits[:, : len(logits)].T, target)) / 2


def clip_batch(seed: int, index: int, count: int) -> tuple[Tensor, list[str]]:
    """Returns drawings [1.5 B, 3, 64, 64] in [-1, 1] of B scenes, then careless ones of the first half, and B captions.

    The second half of the scenes are the first, each edited in one word. A function of (seed, index).
    """
    generators = [np.random.default_rng((seed, index + i)) for i in range(count // 2)]
    scenes = [sample_scene(rng) for rng in generators]
    edited_scenes = [edited(scene, rng) for scene, rng in zip(scenes, generators, strict=True)]
    asked = [(scenes, GOOD), (edited_scenes, GOOD), (scenes, SPOILT)]
    drawings = [drawn(scene, rng, flaws) for part, flaws in asked for scene, rng in zip(part, generators, strict=True)]
    return as_pixels(drawings), [caption(scene) for scene in scenes + edited_scenes]


def drawn(scene: Scene, rng: np.random.Generator, flaws: Flaws) -> np.ndarray:
    """Returns a drawing of a scene with random flaws, uint8 `[64, 64, 3]`."""
    return render(scene, layout=flawed_layout(scene, rng, flaws))


def as_pixels(drawings: Sequence[np.ndarray]) -> Tensor:
    """Returns drawings, uint8 `[64, 64, 3]`, as pixels [B, 3, 64, 64] in [-1, 1]."""
    return torch.from_numpy(np.stack(drawings)).permute(0, 3, 1, 2).float() / 127.5 - 1


def edited(scene: Scene, rng: np.random.Generator) -> Scene:
    """Returns a scene that differs from another in one word: a colour, shape, size, relation, place or number."""
    others: list[Scene] = []
    taken = {scene.background, *(o.colour for o in scene.objects)}
    free = [colour for colour in COLOURS if colour not in taken]
    others.append(replace(scene, background=str(rng.choice(free))))
    alike, first = scene.kind == "number", scene.objects[0]
    for number, thing in enumerate(scene.objects[:1] if alike else scene.objects):
        shapes = [shape for shape in SHAPES if shape != thing.shape]
        changed = [replace(thing, colour=str(rng.choice(free))), replace(thing, shape=str(rng.choice(shapes)))]
        if scene.kind in ("single", "place"):
            changed.append(replace(thing, size=str(rng.choice([size for size in SIZES if size != thing.size]))))
        for new in changed:
            objects = [new] * len(scene.objects) if alike else [*scene.objects]
            objects[number] = new
            others.append(replace(scene, objects=tuple(objects)))
    if scene.relation:
        others += 2 * [replace(scene, relation=opposite(scene.relation, RELATIONS))]
        others += [replace(scene, relation=str(rng.choice([r for r in RELATIONS if r != scene.relation])))]
    if scene.place:
        others += 2 * [replace(scene, place=opposite(scene.place, PLACES))]
    if alike:
        others += 2 * [replace(scene, objects=(first,) * next(n for n in NUMBERS if n != len(scene.objects)))]
    return others[int(rng.integers(len(others)))]


def opposite(word: str, directions: dict[str, tuple[int, int]]) -> str:
    """Returns the word for the opposite direction."""
    x, y = directions[word]
    return next(other for other, direction in directions.items() if direction == (-x, -y))


def image_embeddings(clip: Any, pixels: Tensor) -> Tensor:
    """Returns embeddings [B, D] of length 1 of pixels [B, 3, 64, 64] in [-1, 1]."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return normalize(clip.get_image_features(pixel_values=(pixels / 2 + 0.5 - mean) / std).pooler_output, dim=1)


def text_embeddings(clip: Any, tokenizer: Any, captions: list[str]) -> Tensor:
    """Returns embeddings [B, D] of length 1 of captions."""
    tokens = tokenizer(captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    return normalize(clip.get_text_features(input_ids=tokens.input_ids).pooler_output, dim=1)


@torch.no_grad()
def measure(folder: Path = Path("assets/tiny-clip"), seed: int = 0, count: int = 1000) -> dict[str, float]:
    """Says how often a caption chooses its own drawing before one of an edited scene, `edited`, and before a careless
    one, `careless`; `count` scenes that weren't trained on, with their drawings as random as in training.
    """
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    pixels, captions = clip_batch(seed + 17, 0, 2 * count)
    texts = text_embeddings(clip, tiny_model.new_tokenizer(), captions[:count])
    own, other, careless = ((texts * image_embeddings(clip, part)).sum(dim=1) for part in pixels.split(count))
    shares = {"edited": own > other, "careless": own > careless}
    return {"scenes": count, **{name: round(float(won.float().mean()), 3) for name, won in shares.items()}}


def write_clip(out_dir: Path, clip: Any) -> None:
    """Writes a CLIP with the world's tokenizer in transformers' layout, float16; replaces the folder whole."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    fresh = out_dir.with_name(f".{out_dir.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    half = deepcopy(clip).to(torch.float16)
    half.save_pretrained(fresh)
    config = fresh / "config.json"  # transformers would load in the stored type
    write_text(config, config.read_text().replace('"float16"', '"float32"'))
    tiny_model.new_tokenizer().save_pretrained(fresh)
    tiny_model.new_tokenizer().backend_tokenizer.model.save(str(fresh))
    write_json(fresh / "preprocessor_config.json", PROCESSOR)
    publish(fresh, out_dir)
