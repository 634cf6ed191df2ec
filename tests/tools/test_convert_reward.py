"""Checkpoints are converted once: by their checksum, without unpickling objects, to the same bytes each time."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from diffalign.core.errors import UserError
from diffalign.core.files import sha256_file
from diffalign.rewards import reward as rewards
from diffalign.rewards.parts import convert
from tests.helpers import open_clip, tiny_rewards


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        tiny_rewards.shrink(patch)
        yield


def test_the_same_checkpoint_gives_the_same_bytes_and_says_what_it_was(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        tiny_rewards.make("hpsv2", tmp_path / folder)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(p.name for p in (tmp_path / "b").iterdir())
    for name in ("model.safetensors", "config.json", "checksums.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with safe_open(tmp_path / "a/model.safetensors", "pt") as file:
        said = file.metadata()
    assert said == {
        "format": "pt",
        "reward": "hpsv2",
        "source": "published.pt",
        "source_sha256": sha256_file(tmp_path / "a/published.pt"),
    }


def test_weights_of_the_other_version_are_refused(tmp_path: Path) -> None:
    """Both have the same shapes: only what the file says of itself tells them apart."""
    tiny_rewards.make("hpsv2", tmp_path)
    with pytest.raises(UserError, match="expected weights that were converted for hpsv2_1, found hpsv2"):
        rewards.load("hpsv2_1", {"path": str(tmp_path), "batch_size": 1, "sha256": None}, "cpu")


def test_another_checksum_is_refused_before_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "it.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=f"expected the SHA-256 {'0' * 64}, found {sha256_file(path)}"):
        convert.convert("hpsv2", path, tmp_path / "out", "0" * 64)
    assert not (tmp_path / "out").exists()


class Harmful:
    """A pickle that would run a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (Harmful(), "found something else or a damaged file \\(UnpicklingError\\)"),
        ([1, 2], "expected a mapping of names to tensors, found list"),
        ({"model": {}}, "expected HPSv2's key state_dict, found model"),
        ({"state_dict": {"visual.head": torch.zeros(1)}}, "found 'visual.head'"),
        ({"state_dict": {"logit_scale": torch.zeros(())}}, "found no tensor; "),
    ],
)
def test_what_isnt_a_checkpoint_of_the_reward_is_refused(
    content: object, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "it.pt")
    with pytest.raises(UserError, match=told):
        convert.convert("hpsv2", tmp_path / "it.pt", tmp_path / "out", sha256_file(tmp_path / "it.pt"))
    assert not (tmp_path / "harmed").exists()
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "it.pt"
    path.write_bytes(pickle.dumps(open_clip.random_state(1), protocol=2))
    with pytest.raises(UserError, match="found something else or a damaged file"):
        convert.convert("hpsv2", path, tmp_path / "out", sha256_file(path))
