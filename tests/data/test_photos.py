"""Real photographs through ingest: upright, RGB, of the right size, and the same pictures as before."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from diffalign.config.load import parse
from diffalign.core import files
from diffalign.data import images
from diffalign.data.comparisons import table as comparisons
from stages import ingest
from tests.helpers.photos import photographs, write_photo_parquet

REPO = Path(__file__).resolve().parents[2]


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of pixels 0..255."""
    error = np.mean((found.astype(np.float64) - expected.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """What ingest stored, by SHA-256."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("photos"))
        write_photo_parquet(Path("raw"))
        raw = yaml.safe_load((REPO / "params.yaml").read_text())
        raw["data"]["path"] = "raw"
        ingest.run(parse(raw))
        table = comparisons.read(Path("data/comparisons"))
        assert table.num_rows == len(photographs())
        return dict(comparisons.iter_images(Path("data/comparisons")))


def test_photographs_come_out_as_a_person_sees_them(stored):
    """Lossless ones exactly; JPEG, WebP and 256 colours above 34 dB: turned or inverted they'd be far below."""
    lossless = {"grey-png-16-bit", "alpha-png", "transparent-logo-png", "wide-strip-png"}
    for name, original, encoded in photographs():
        data = stored[files.sha256_bytes(encoded)]
        assert data == encoded
        decoded = images.decode(data, 2**24)
        assert (decoded.mode, decoded.size) == ("RGB", (original.shape[1], original.shape[0])), name
        found = psnr(np.asarray(decoded), original)
        assert found == float("inf") if name in lossless else 34 < found < float("inf"), (name, found)
        if name.startswith("exif"):
            assert psnr(np.asarray(decoded)[::-1], original) < 20 > psnr(np.asarray(decoded)[:, ::-1], original)


@pytest.mark.parametrize("resolution", [64, 512])
def test_preprocessed_photographs_are_the_middle_of_the_original(resolution):
    """Against the original, cropped first and then resized."""
    for name, original, encoded in photographs():
        array = images.preprocess(images.decode(encoded, 2**24), resolution)
        assert array.shape == (3, resolution, resolution) and array.dtype == np.float32
        assert array.min() >= -1 and array.max() <= 1
        side = min(original.shape[:2])
        top, left = ((length - side) // 2 for length in original.shape[:2])
        square = Image.fromarray(np.ascontiguousarray(original[top : top + side, left : left + side]))
        expected = np.asarray(square.resize((resolution, resolution), Image.Resampling.BILINEAR))
        assert psnr((array.transpose(1, 2, 0) + 1) * 127.5, expected) > 33, name
