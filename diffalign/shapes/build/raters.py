"""Simulates raters who compare pictures of three models; writes Pick-a-Pic v2's exact columns and types.

A prompt's pictures come from one model or from several (`SESSIONS`): the base, a weaker one, a stronger one. The
raters of a world (`shapes/tastes.py`) answer by Bradley-Terry on their utility, the oracle plus their taste, and a bias
to the image on the left, with logistic noise; the smallest differences are ties. A rater's group is the hundreds of its
id. The temperature is set so that the oracle agrees with 75% of the untied answers. In `train` a rater stays with a
prompt for three rows: the winner meets a new challenger. In `validation_unique` and `test_unique` a prompt has one row.

Twelve rows of `train` are broken on purpose, two of each kind (see `_break`): image bytes cut short, no image bytes,
no caption, `has_label` false, labels that don't add to one, one image on both sides.
"""

import io
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from diffalign.core.errors import UserError
from diffalign.core.files import write_bytes
from diffalign.core.home import COMMAND
from diffalign.core.progress import Progress
from diffalign.data.sources.pickapic import SIMULATED
from diffalign.shapes.oracle import read, score
from diffalign.shapes.scenes import caption, sample_scene
from diffalign.shapes.tastes import WORLDS

WORLD = WORLDS["mild"]
TIES, AGREEMENT = 0.12, 0.75
ROUNDS = {"train": 3, "validation_unique": 1, "test_unique": 1}  # rows a prompt; a prompt has rounds + 1 images
START = np.datetime64("2023-03-01T08:00:00", "ns")
WEAKER, BASE, STRONGER = "tiny-sd-weaker", "tiny-sd", "tiny-sd-stronger"
MODELS = {WEAKER: Path("models/shapes/weaker"), BASE: Path("assets/tiny-sd"), STRONGER: Path("models/shapes/stronger")}
SESSIONS: dict[tuple[str, ...], float] = {
    (WEAKER,): 0.6,
    (BASE,): 0.15,
    (STRONGER,): 0.05,
    (WEAKER, BASE, STRONGER): 0.2,
}
"""Which models make a prompt's pictures, each drawn at random, and the share of such prompts."""
Prompts = list[tuple[str, str]]  # (split, caption)
Sample = Callable[[str, list[str], list[int]], np.ndarray]
"""(model, captions, seeds) to pictures, uint8 `[B, H, W, 3]`."""


@dataclass(frozen=True)
class Answer:
    """One comparison: the numbers of the left and the right image, and z, the left's lead in logits with noise."""

    split: str
    prompt: int
    rater: int
    left: int
    right: int
    z: float


def run(
    out_dir: Path = Path("assets/comparisons"),
    models: Mapping[str, Path] = MODELS,
    seed: int = 0,
    rows: dict[str, int] | None = None,
    sample: Sample | None = None,
) -> dict[str, float]:
    """Makes the images and the answers, writes one Parquet file a split; returns counts and the oracle's agreement.

    `models` are folders by their names in SESSIONS. `rows` gives rows per split (train 1500, validation_unique 250,
    test_unique 500). `sample` makes the pictures; by default the models do, in 20 DDIM steps with guidance 4.
    """
    rows = rows or {"train": 1500, "validation_unique": 250, "test_unique": 500}
    rng = np.random.default_rng((seed, 0))
    prompts = _prompts(rng, {s: -(-n // ROUNDS[s]) for s, n in rows.items()})
    owner = np.concatenate([[i] * (ROUNDS[split] + 1) for i, (split, _) in enumerate(prompts)])
    captions = [prompts[i][1] for i in owner]
    makers = _makers(owner, seed)
    images = _sample_all(sample or _models_sample(models), captions, makers, seed)
    oracle, features = _judge(images, captions)
    answers, tie_below = _calibrate(prompts, owner, oracle, features, seed)
    tables = _rows(answers, tie_below, prompts, images, makers, seed)
    for split, records in tables.items():
        records = records[: rows[split]]
        if split == "train":
            _break(records, np.random.default_rng((seed, 5)))
        write_bytes(out_dir / f"{split}-00000-of-00001.parquet", _parquet(records))
    untied = [a for a in answers if abs(a.z) >= tie_below]
    return {
        "images": len(images),
        **{split: min(len(records), rows[split]) for split, records in tables.items()},
        **{f"oracle of {name}": float(oracle[makers == name].mean()) for name in (WEAKER, BASE, STRONGER)},
        "ties": 1 - len(untied) / len(answers),
        "agreement": _agreement(untied, oracle),
    }


def _makers(owner: np.ndarray, seed: int) -> np.ndarray:
    """Returns the name of the model that makes each image, `[N]`, for images of the prompts `owner` `[N]`."""
    rng = np.random.default_rng((seed, 6))
    kinds = list(SESSIONS)
    sessions = rng.choice(len(kinds), size=int(owner.max()) + 1, p=list(SESSIONS.values()))
    return np.array([rng.choice(kinds[sessions[i]]) for i in owner])


def _prompts(rng: np.random.Generator, counts: dict[str, int]) -> Prompts:
    """Draws distinct captions as (split, caption), of each kind as many as scenes have; no prompt is in two splits."""
    found: dict[str, None] = {}
    while len(found) < sum(counts.values()):
        found[caption(sample_scene(rng))] = None
    splits = [split for split, count in counts.items() for _ in range(count)]
    return [(splits[i], text) for i, text in zip(rng.permutation(len(splits)), found, strict=True)]


def _models_sample(folders: Mapping[str, Path]) -> Sample:
    """Returns a function that samples from the models in some folders, on the GPU if there is one."""
    import torch

    from diffalign.shapes.build import tiny_model

    if missing := [str(folder) for folder in folders.values() if not folder.is_dir()]:
        raise UserError(f"expected the models in {', '.join(missing)}: make them by `{COMMAND} pretrain-demo`")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {name: tiny_model.load(folder, device) for name, folder in folders.items()}
    return lambda name, captions, seeds: tiny_model.sample(models[name], captions, seeds)


def _sample_all(sample: Sample, captions: list[str], makers: np.ndarray, seed: int, batch: int = 64) -> np.ndarray:
    """Samples all images, uint8 `[N, H, W, 3]`; image i's noise has the seed `seed · 10⁶ + i`."""
    images: dict[int, np.ndarray] = {}
    progress = Progress("images", len(captions))
    for name in sorted(set(makers)):
        numbers = np.flatnonzero(makers == name).tolist()
        for start in range(0, len(numbers), batch):
            part = numbers[start : start + batch]
            made = sample(name, [captions[i] for i in part], [seed * 1_000_000 + i for i in part])
            images |= zip(part, made, strict=True)
            progress.update(len(part))
    return np.stack([images[i] for i in range(len(captions))])


def _judge(images: np.ndarray, captions: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the oracle's scores `[N]` and the features that tastes weigh, `[N, 3]`."""
    oracle = np.array([score(image, text).oracle for image, text in zip(images, captions, strict=True)])
    return oracle, np.stack([WORLD.read(read(image)) for image in images])


def _ask(
    prompts: Prompts, owner: np.ndarray, oracle: np.ndarray, features: np.ndarray, seed: int, temperature: float
) -> list[Answer]:
    """Returns all raters' answers at a temperature. Tastes and noise depend on the seed, the rater and the row."""
    tastes = WORLD.tastes(seed)
    raters = np.random.default_rng((seed, 2)).integers(WORLD.raters, size=len(prompts))
    noise = np.random.default_rng((seed, 3)).logistic(size=(len(prompts), max(ROUNDS.values())))
    first = np.searchsorted(owner, np.arange(len(prompts)))
    answers = []
    for i, (split, _) in enumerate(prompts):
        taste = tastes[raters[i]]
        left, right = int(first[i]), int(first[i]) + 1
        for turn in range(ROUNDS[split]):
            gap = oracle[left] - oracle[right] + (features[left] - features[right]) @ taste[:3] + taste[3]
            z = float(gap / temperature + noise[i, turn])
            answers.append(Answer(split, i, int(raters[i]), left, right, z))
            challenger = int(first[i]) + turn + 2
            left, right = (left, challenger) if z > 0 else (challenger, right)
    return answers


def _agreement(untied: list[Answer], oracle: np.ndarray) -> float:
    """Returns the share of untied answers whose winner has the higher oracle score."""
    return float(np.mean([(a.z > 0) == (oracle[a.left] > oracle[a.right]) for a in untied]))


def _calibrate(
    prompts: Prompts, owner: np.ndarray, oracle: np.ndarray, features: np.ndarray, seed: int
) -> tuple[list[Answer], float]:
    """Finds the temperature where the oracle agrees with 75% of untied answers; returns answers and the tie's |z|."""
    low, high = 1e-3, 10.0
    for _ in range(30):
        middle = float(np.sqrt(low * high))
        answers = _ask(prompts, owner, oracle, features, seed, middle)
        tie_below = float(np.quantile([abs(a.z) for a in answers], TIES))
        agreement = _agreement([a for a in answers if abs(a.z) >= tie_below], oracle)
        low, high = (middle, high) if agreement > AGREEMENT else (low, middle)
    return answers, tie_below


def _rows(
    answers: list[Answer], tie_below: float, prompts: Prompts, images: np.ndarray, makers: np.ndarray, seed: int
) -> dict[str, list[dict]]:
    """Returns Pick-a-Pic rows per split, sorted by their dates; a rater's rows on one prompt keep their order."""
    rng = np.random.default_rng((seed, 4))
    uids = [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in images]
    encoded = [_encode(image, png=rng.random() < 0.1) for image in images]
    tables: dict[str, list[dict]] = {split: [] for split in ROUNDS}
    examples = {i: ROUNDS[split] for i, (split, _) in enumerate(prompts)}
    for number, a in enumerate(answers):
        tie = abs(a.z) < tie_below
        label = 0.5 if tie else float(a.z > 0)
        record = {
            "are_different": True,
            "best_image_uid": "none" if tie else uids[a.left if a.z > 0 else a.right],
            "caption": prompts[a.prompt][1],
            "created_at": START + np.timedelta64(number * 37, "s"),
            "has_label": True,
            "ranking_id": number,
            "user_id": int(WORLD.ids[a.rater]),
            "num_example_per_prompt": examples[a.prompt],
            "__index_level_0__": len(tables[a.split]),
            "label_0": label,
            "label_1": 1 - label,
        }
        for side, image in (("0", a.left), ("1", a.right)):
            record[f"image_{side}_uid"] = uids[image]
            record[f"image_{side}_url"] = f"https://shapes.invalid/images/{uids[image]}"
            record[f"jpg_{side}"] = encoded[image]
            record[f"model_{side}"] = str(makers[image])
        tables[a.split].append(record)
    return tables


def _encode(image: np.ndarray, png: bool) -> bytes:
    """Returns an image as JPEG bytes at quality 92 with full colour resolution, or as PNG."""
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    picture.save(buffer, "PNG") if png else picture.save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def _break(records: list[dict], rng: np.random.Generator) -> None:
    """Breaks twelve random rows in place, two of each kind; needs at least 12 rows."""
    flaws = (
        lambda r: {"jpg_0": r["jpg_0"][: len(r["jpg_0"]) // 2]},
        lambda r: {"jpg_1": b""},
        lambda r: {"caption": None},
        lambda r: {"has_label": False},
        lambda r: {"label_0": 1.0, "label_1": 1.0},
        lambda r: {"jpg_1": r["jpg_0"], **{f"image_1_{k}": r[f"image_0_{k}"] for k in ("uid", "url")}},
    )
    chosen = rng.choice(len(records), 2 * len(flaws), replace=False)
    for index, flaw in zip(chosen, [f for f in flaws for _ in range(2)], strict=True):
        records[index].update(flaw(records[index]))


def _parquet(records: list[dict]) -> bytes:
    """Returns the rows as a Parquet file's bytes, with Pick-a-Pic v2's columns in their order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, real, whole = pa.string(), pa.float64(), pa.int64()
    note = {SIMULATED: f"{WORLD.raters} raters, by Bradley-Terry on an oracle, tastes and noise: no person answered"}
    schema = pa.schema(
        [("are_different", pa.bool_()), ("best_image_uid", text), ("caption", text)]
        + [("created_at", pa.timestamp("ns")), ("has_label", pa.bool_()), ("image_0_uid", text)]
        + [("image_0_url", text), ("image_1_uid", text), ("image_1_url", text), ("jpg_0", pa.binary())]
        + [("jpg_1", pa.binary()), ("label_0", real), ("label_1", real), ("model_0", text), ("model_1", text)]
        + [("ranking_id", whole), ("user_id", whole), ("num_example_per_prompt", whole), ("__index_level_0__", whole)],
        note,
    )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records, schema), sink, compression="zstd", row_group_size=256)
    return sink.getvalue()
