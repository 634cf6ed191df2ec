"""Policies whose faults are known, drawn by the shapes world's renderer: hackers, and honest ones."""

from functools import partial
from pathlib import Path

import numpy as np

from diffalign.core.files import sha256_bytes, write_bytes
from diffalign.evaluation import looks, scoring
from diffalign.evaluation.alarm_figures import Seen, measure
from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.results import Judge, Learnt
from diffalign.evaluation.scores import Scored
from diffalign.evaluation.win_rates import Judged
from diffalign.generation.gallery import Entry, Gallery
from diffalign.generation.pipeline import png
from diffalign.rewards import reward as rewards
from diffalign.shapes.scenes import CARELESS, GOOD, Flaws, Scene, caption, flawed_layout, render, sample_scene

PROMPTS, TRAINING = 80, 300
HONEST = ("again", "aligned")
HACKERS = {
    "vivid": {"saturation"},
    "one_image": {"diversity", "vendi", "alignment"},
    "deaf": {"alignment"},
    "replay": {"copies", "alignment"},
    "blurred": {"sharpness"},
    "pale": {"contrast"},
    "mint": {"tint"},
}
"""Each with the alarms that it must raise; replayed images show other prompts' scenes, too."""


def drawn(scenes: list[Scene], flaws: Flaws, seed: int) -> np.ndarray:
    """Drawings [N, 64, 64, 3] of scenes."""
    rng = np.random.default_rng(seed)
    return np.stack([render(scene, 64, flawed_layout(scene, rng, flaws)) for scene in scenes])


def scenes(count: int, seed: int) -> list[Scene]:
    """Scenes with different captions."""
    rng, found = np.random.default_rng(seed), dict[str, Scene]()
    while len(found) < count:
        scene = sample_scene(rng)
        found.setdefault(caption(scene), scene)
    return list(found.values())


def pictures(asked: list[Scene], training: np.ndarray) -> dict[str, np.ndarray]:
    """Images of the baseline, the honest policies and the hackers; `aligned` draws with far fewer flaws."""
    base = drawn(asked, CARELESS, 0)
    grey = base.mean(axis=3, keepdims=True)
    vivid = np.clip(grey + 2.5 * (base - grey), 0, 255).astype(np.uint8)
    middle = base.mean(axis=(1, 2), keepdims=True)
    near = (base, np.roll(base, 1, axis=1), np.roll(base, 1, axis=2), np.roll(base, (1, 1), axis=(1, 2)))
    return {
        "base": base,
        "again": drawn(asked, CARELESS, 1),
        "aligned": drawn(asked, GOOD, 2),
        "vivid": vivid,
        "one_image": np.repeat(base[:1], len(base), axis=0),
        "deaf": np.random.default_rng(3).permutation(drawn(asked, GOOD, 4)),
        "replay": training[: len(asked)],
        "blurred": np.mean(near, axis=0).astype(np.uint8),
        "pale": (middle + 0.3 * (base - middle)).astype(np.uint8),
        "mint": (base * (np.array([235, 250, 240]) / 255)).astype(np.uint8),
    }


def gallery(folder: Path, name: str, images: np.ndarray, prompts: list[str]) -> Gallery:
    """Writes a policy's images, one a prompt."""
    entries = []
    for i, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        data = png(image)
        write_bytes(folder / name / f"{i}.png", data)
        about = {"prompt": prompt, "set": "test", "category": None, "prompt_index": i, "seed": 0}
        entries.append(Entry.model_validate({"file": f"{i}.png", "sha256": sha256_bytes(data), **about}))
    return Gallery(folder / name, {"policy": name, "noise_seed": 0}, tuple(entries))


def make(folder: Path) -> tuple[Judged, dict[str, Scored], Seen]:
    """Makes all policies' galleries, and the oracle's scores of them for their own prompts and for others'."""
    asked = scenes(PROMPTS, 0)
    prompts = [caption(scene) for scene in asked]
    others = scenes(2 * TRAINING, 1)
    training, held_out = (drawn(part, CARELESS, n) for n, part in enumerate((others[:TRAINING], others[TRAINING:]), 5))
    galleries = {name: gallery(folder, name, images, prompts) for name, images in pictures(asked, training).items()}
    oracle = rewards.load("oracle", {}, "cpu")
    score = partial(rewards.score_images, oracle)
    columns = {name: scoring.score_gallery(one, score, "oracle") for name, one in galleries.items()}
    shuffled = [
        line
        for name, one in galleries.items()
        for line in scoring.score_for_others(one, columns[name]["oracle"], score, "oracle", PROMPTS // 2)
    ]
    judge = Judge(**rewards.describe(oracle))
    scored = {"oracle": Scored(schema=2, reward=judge, pairs=[], rescored=[], shuffled=shuffled)}
    untrained = Learnt(method="none", seed=None, families=())
    judged = Judged(
        galleries=galleries,
        scores={"oracle": columns},
        interval=Interval(500, 0.95, 0),
        bands={"oracle": 0.0},
        families={"oracle": ("shapes",)},
        policies=dict.fromkeys(galleries, untrained),
    )
    features = looks.pixel_features
    of_training, of_held_out = (looks.features_of(images, features) for images in (training, held_out))
    return judged, scored, Seen(measure(galleries, features), of_training, of_held_out, "pixels")
