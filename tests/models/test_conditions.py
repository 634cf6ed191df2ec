"""What an image gives to its condition goes with its row of a batch: winner's, loser's, the mirrored image's."""

from pathlib import Path

import pytest
import torch

from diffalign.core.errors import UserError
from diffalign.data.batches.pairs import Pair
from diffalign.data.hub import origins
from diffalign.data.shards import encode
from diffalign.data.shards.reader import image_cond, prompt_key
from diffalign.data.shards.writer import Sample, as_stored
from diffalign.diffusion.timesteps import Times
from diffalign.evaluation import implicit_reward as implicit
from diffalign.models import family as families
from tests.helpers.memory_batches import source, unpaired

SHAPE = (4, 4, 4)


def sample(value: float) -> dict[str, torch.Tensor]:
    """Latents that are `value` everywhere, minus it in the mirrored image, and a condition that says which."""
    return {
        "mean": torch.full(SHAPE, value),
        "mean_flip": torch.full(SHAPE, -value),
        "logvar": torch.full(SHAPE, -60.0),
        "logvar_flip": torch.full(SHAPE, -60.0),
        "cond.size": torch.tensor([value]),
        "cond_flip.size": torch.tensor([-value]),
    }


@pytest.mark.parametrize("make", [source, unpaired])
def test_each_row_of_a_batch_is_told_of_its_own_image(make) -> None:  # type: ignore[no-untyped-def]
    images = {f"{side}{i}": sample(sign * (i + 1.0)) for i in range(10) for side, sign in (("w", 1), ("l", 100))}
    each = make(images=images, flip="independent", micro_batch_size=4)
    seen = []
    for batch in each.at(0):
        x0, _ = each.process.split(batch.target, batch.x_t, batch.t)
        assert set(batch.cond) == {"hidden", "size"}
        torch.testing.assert_close(x0.mean(dim=(1, 2, 3)), batch.cond["size"][:, 0], rtol=1e-3, atol=1e-3)
        seen += batch.cond["size"][:, 0].tolist()
    assert {size > 0 for size in seen} == {True, False}, "some are mirrored, some aren't"


def test_the_implicit_reward_is_told_of_its_images() -> None:
    """A network that knows eps from x0, which it is told: its errors vanish, for winner and loser."""
    images = {"w": sample(2.0), "l": sample(-3.0)}
    prompts = {prompt_key("p"): {"hidden": torch.zeros(3, 2)}}
    process = source().process

    def oracle(x_t: torch.Tensor, t: torch.Tensor, cond: dict[str, torch.Tensor]) -> torch.Tensor:
        alpha, sigma = process.scales(t, x_t)  # type: ignore[attr-defined]
        return (x_t - alpha * cond["size"].view(-1, 1, 1, 1)) / sigma

    pairs = [Pair("0", "p", "w", "l", strength=1.0, weight=1.0)]
    how = {"draws": 3, "seed": 0, "batch_size": 4, "device": "cpu"}
    errors = implicit.errors(oracle, pairs, images, prompts, times=Times(process, 0.4, 1.0), **how)
    assert errors.max() < 1e-6


def test_sizes_are_stored_exactly() -> None:
    """2049 isn't a float16, and 70000 is beyond them; encodings are float16 all the same."""
    tensors = {"mean": torch.zeros(2), "cond.size": torch.tensor([2049.0, 7e4]), "cond_flip.size": torch.tensor([1.0])}
    stored = as_stored(Sample("k", tensors, {}))
    assert {name: value.dtype for name, value in stored.items()} == {
        "mean": torch.float16,
        "cond.size": torch.float32,
        "cond_flip.size": torch.float32,
    }
    assert image_cond(stored, flip=False)["size"].tolist() == [2049, 7e4]
    assert image_cond(stored, flip=True)["size"].tolist() == [1]
    with pytest.raises(UserError, match=r"mean for k has values up to 7e.04, beyond float16"):
        as_stored(Sample("k", {"mean": torch.tensor([7e4])}, {}))


class Sizes:
    """A family that repeats what it's asked about an image."""

    def image_cond(self, *about: tuple[int, int]) -> dict[str, torch.Tensor]:
        return {"about": torch.tensor(about)}


@pytest.mark.parametrize(
    ("width", "height", "mirrored", "crop"),
    [
        (1024, 1024, False, (0, 0)),
        (1536, 1024, False, (0, 128)),  # resized to 768 x 512, and (768 - 512) / 2 left of the crop
        (1536, 1024, True, (0, 128)),
        (512, 2048, False, (768, 0)),
        (257, 256, False, (0, 0)),  # the odd column is right of the crop,
        (257, 256, True, (0, 2)),  # and left of it once mirrored
    ],
)
def test_where_the_crop_lies(width: int, height: int, mirrored: bool, crop: tuple[int, int]) -> None:
    found = encode.image_cond(Sizes(), width, height, 512, mirrored)["about"]  # type: ignore[arg-type]
    assert found.tolist() == [[height, width], [*crop], [512, 512]]


def test_pipelines_are_the_families_own() -> None:
    assert {name: families.find(name).pipeline for name in ("sd15", "sdxl", "sd3")} == origins.PIPELINES


def test_no_family_is_named_outside_families() -> None:
    """Only params, the hub's pins, others' file layouts, sizes known by name, and compare tell them apart."""
    root = Path(__file__).resolve().parents[2]
    files = [*root.glob("diffalign/**/*.py"), *root.glob("stages/*.py"), *root.glob("flows/*.py"), root / "pipeline.py"]
    asking = {
        str(file.relative_to(root))
        for file in files
        if any(f'"{name}"' in file.read_text() for name in ("sd15", "sdxl", "sd3"))
    }
    inside = {f"diffalign/models/{name}.py" for name in ("sd15", "sdxl", "sd3")}
    assert asking - {"diffalign/core/code.py", "diffalign/config/samplers.py"} == {
        "diffalign/commands/compare_models.py",
        "diffalign/config/params.py",
        "diffalign/data/hub/origins.py",
        "diffalign/data/hub/pinned.py",
        "diffalign/models/layouts/modelspec.py",
        "diffalign/models/layouts/original.py",
        "diffalign/planning/known_models.py",
        *inside,
    }
