"""Real photographs through ingest and precompute: what the shards hold, decoded, is the photograph, upright.

The embedded model's VAE has seen shapes only; it blurs photographs, but which way is up and the colours are plain.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw

from diffalign.config.load import parse
from diffalign.data.shards import reader as shards
from diffalign.models import family as families
from stages import ingest, precompute
from tests.helpers.photos import photographs, write_photo_parquet

REPO = Path(__file__).resolve().parents[2]
MODEL = REPO / "assets" / "tiny-sd"
SIDE = 128
COLUMNS = 6
PICTURE = REPO / "runs" / "photos.png"
"""Each photograph, whole and upright, and beside it what the shards hold of it; for a person to look at."""


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """By name, what the shards hold of each photograph, decoded: float [SIDE, SIDE, 3] in 0..255."""
    root = tmp_path_factory.mktemp("photos")
    write_photo_parquet(root / "raw")
    raw = yaml.safe_load((REPO / "params.yaml").read_text())
    raw["data"]["path"], raw["model"]["path"] = "raw", str(MODEL)
    raw["precompute"] = {"resolution": SIDE, "flips": False, "batch_size": 8, "shard_size": 16}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("DIFFALIGN_DEVICE", "cpu")
        ingest.run(parse(raw))
        precompute.run(parse(raw))
    stored = shards.Shards(root / "data" / "shards")
    assert len(stored) == len(photographs())
    vae = families.load("sd15", MODEL, ("vae",))
    found = {}
    for name, _, encoded in photographs():
        mean = stored.get(hashlib.sha256(encoded).hexdigest())["mean"]
        assert mean.shape == (16, SIDE // 8, SIDE // 8)
        with torch.no_grad():
            pixels = vae.decode(mean[None])[0]
        found[name] = (pixels.permute(1, 2, 0).clamp(-1, 1).double().numpy() + 1) * 127.5
    save_picture(found)
    return found


def centre_square(photograph: np.ndarray) -> np.ndarray:
    """The centre square of a picture, float [SIDE, SIDE, 3], by averaging and not by what the pipeline uses."""
    height, width = photograph.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(np.ascontiguousarray(photograph[top : top + side, left : left + side]))
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x.ravel(), y.ravel())[0, 1])


def save_picture(found: dict[str, np.ndarray]) -> None:
    """Writes PICTURE: in each cell the photograph within a square, what was decoded, and the name."""
    rows = -(-len(found) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (2 * SIDE + 12), rows * (SIDE + 22)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, upright, _) in enumerate(photographs()):
        x, y = i % COLUMNS * (2 * SIDE + 12), i // COLUMNS * (SIDE + 22)
        whole = Image.fromarray(np.ascontiguousarray(upright))
        whole.thumbnail((SIDE, SIDE))
        sheet.paste(whole, (x, y))
        sheet.paste(Image.fromarray(found[name].round().astype(np.uint8)), (x + SIDE, y))
        draw.text((x + 2, y + SIDE + 4), name, fill="black")
    PICTURE.parent.mkdir(exist_ok=True)
    sheet.save(PICTURE)


@pytest.mark.parametrize("name", [name for name, _, _ in photographs()])
def test_upright_and_in_its_colours(decoded: dict[str, np.ndarray], name: str) -> None:
    """The decoded picture is more like the upright photograph than like its other seven turns and mirror images,
    and, where it is colourful, than like it with other orders of the channels."""
    upright = centre_square(next(picture for n, picture, _ in photographs() if n == name))
    right = correlation(decoded[name], upright)
    assert right > 0.75
    turned = [np.rot90(side, turns) for side in (upright, upright[:, ::-1]) for turns in range(4)][1:]
    assert right > max(correlation(decoded[name], other) for other in turned)
    if np.ptp(upright, axis=2).mean() > 20:
        orders = ([0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
        assert right > max(correlation(decoded[name], upright[..., order]) for order in orders)
    assert abs(decoded[name].mean() - upright.mean()) < 25


def test_all_eight_orientations_decode_to_the_same_two_pictures(decoded: dict[str, np.ndarray]) -> None:
    """JPEG stores them turned, so their bytes and their rounding differ; the pictures don't."""
    for first, others in (("exif-1", (3, 5, 7)), ("exif-2", (4, 6, 8))):
        for n in others:
            assert correlation(decoded[first], decoded[f"exif-{n}"]) > 0.98
