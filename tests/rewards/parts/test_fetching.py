"""Rewards' weights arrive from a stand-in of the hub, by the real client: pinned, verified, converted, ready."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from diffalign.config.load import load as load_params
from diffalign.core.errors import UserError
from diffalign.core.files import sha256_bytes
from diffalign.data.hub.fetch import read_lock
from diffalign.models.parts import weights
from diffalign.rewards import aesthetic_v2
from diffalign.rewards import reward as rewards
from diffalign.rewards.parts import fetching
from diffalign.rewards.parts.folders import REVISIONS, Published
from tests.helpers import open_clip, tiny_rewards
from tests.helpers.hub import Hub

H14, HPS, PICK, L14 = (
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "xswu/HPSv2",
    "yuvalkirstain/PickScore_v1",
    "openai/clip-vit-large-patch14",
)
GITHUB, HEAD = "christophschuhmann/improved-aesthetic-predictor", "sac+logos+ava1-l14-linearMSE.pth"
PIXELS = torch.rand(2, 3, 40, 31, generator=torch.Generator().manual_seed(0)) * 2 - 1


def saved(checkpoint: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def files_of(folder: Path, *names: str) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and a GitHub, with the tiny weights of four rewards among files that nobody wants."""
    tiny_rewards.shrink(monkeypatch)
    made = {name: tiny_rewards.make(name, tmp_path_factory.mktemp(name)) for name in ("pickscore", "aesthetic_v2")}
    hps = {"HPS_v2_compressed.pt": saved({"state_dict": open_clip.random_state(1)}), "README.md": b"#"}
    pick = {**files_of(made["pickscore"], "config.json", "model.safetensors"), "pytorch_model.bin": b"a pickle"}
    tokenizer = files_of(made["pickscore"], "vocab.json", "merges.txt")
    head = saved(tiny_rewards.random_head(1))
    hub = Hub(
        {
            ("model", HPS): {REVISIONS[HPS]: hps},
            ("model", PICK): {REVISIONS[PICK]: pick},
            ("model", H14): {REVISIONS[H14]: {**tokenizer, "open_clip_model.safetensors": b"large"}},
            ("model", L14): {REVISIONS[L14]: files_of(made["aesthetic_v2"], "config.json", "model.safetensors")},
            ("raw", GITHUB): {REVISIONS[f"https://github.com/{GITHUB}"]: {HEAD: head}},
        }
    )
    first, second = aesthetic_v2.SOURCES
    tiny = Published(second.repo, second.files, second.checkpoint, len(head), sha256_bytes(head))
    monkeypatch.setattr(aesthetic_v2, "SOURCES", (first, tiny))
    monkeypatch.setattr(fetching, "RAW", f"{hub.url}/raw")
    yield hub
    hub.close()


@pytest.fixture(autouse=True)
def here(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, made the current one, with the stand-in as the hub, and a token."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path


def asked_files(hub: Hub) -> list[str]:
    return [path for path, _ in hub.requests if "/resolve/" in path or path.startswith("/raw/")]


def settings(told: str, name: str) -> dict[str, Any]:
    """The settings that a fetch printed."""
    import yaml

    section = told[told.index(f"rewards:\n  {name}:") :].split("\n")[:2]
    found: dict[str, Any] = yaml.safe_load("\n".join(section))["rewards"][name]
    return found


@pytest.mark.parametrize("name", ["pickscore", "hpsv2", "aesthetic_v2"])
def test_a_fetched_reward_scores_as_its_weights_do(
    hub: Hub, name: str, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With the very settings that were printed; nothing else is left in the folder; again brings nothing."""
    fetching.run([name], {})
    found = settings(capsys.readouterr().out, name)
    assert found["path"] == f"models/rewards/{name}"
    reward = rewards.load(name, found, "cpu")
    expected = rewards.load(
        name,
        {"path": str(tiny_rewards.make(name, tmp_path_factory.mktemp("own"))), "batch_size": 2, "sha256": None},
        "cpu",
    )
    torch.testing.assert_close(reward(PIXELS, ["a", "b"]), expected(PIXELS, ["a", "b"]))
    sources = fetching.published(name)
    assert {path.name for path in Path(found["path"]).iterdir()} == {
        "checksums.json",
        *(file for source in sources for file in source.files),
    }
    hub.requests.clear()
    fetching.run([name], {})
    assert not asked_files(hub)


def test_files_are_of_the_pinned_commits_and_only_the_hub_sees_the_token(hub: Hub) -> None:
    fetching.run(["aesthetic_v2", "hpsv2"], {})
    for path in asked_files(hub):
        assert any(commit in path for commit in REVISIONS.values())
    tokens = dict(hub.tokens)
    assert all(token == ("" if path.startswith("/raw/") else "Bearer hf_secret") for path, token in tokens.items())
    assert any(path.startswith("/raw/") for path in tokens)


def test_a_commit_that_isnt_pinned_is_kept(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest one is taken the first time; that one, when the hub has a newer."""
    monkeypatch.delitem(REVISIONS, PICK)
    fetching.run(["pickscore"], {})
    first = read_lock()[f"pickscore: {PICK}"]["commit"]
    hub.repositories["model", PICK]["f" * 40] = {}
    fetching.run(["pickscore"], {})
    assert read_lock()[f"pickscore: {PICK}"]["commit"] == first != "f" * 40


@pytest.mark.parametrize(("name", "path"), [("aesthetic_v2", HEAD), ("hpsv2", "HPS_v2_compressed.pt")])
def test_a_damaged_checkpoint_is_not_converted(hub: Hub, name: str, path: str) -> None:
    hub.damage.add(path)
    with pytest.raises(UserError, match="arrived damaged"):
        fetching.run([name], {})
    assert not list(Path("models/rewards", name).glob("*.safetensors")) or name == "aesthetic_v2"
    hub.damage.clear()
    fetching.run([name], {})


def test_a_file_that_changed_since_is_told(hub: Hub) -> None:
    fetching.run(["pickscore"], {})
    path = Path("models/rewards/pickscore/model.safetensors")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match="damaged or replaced"):
        fetching.run(["pickscore"], {})


def test_a_folder_of_ones_own(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    fetching.run(["pickscore"], {"pickscore": {"path": "elsewhere/pick", "batch_size": 3, "sha256": None}})
    assert settings(capsys.readouterr().out, "pickscore")["batch_size"] == 3
    assert Path("elsewhere/pick/vocab.json").exists()


def test_without_names_those_of_params_are_brought() -> None:
    assert fetching.needed({"oracle": {}, "hpsv2": {}, "http": {}, "pickscore": {}}) == ["hpsv2", "pickscore"]
    with pytest.raises(UserError, match="found none: name them"):
        fetching.needed({"oracle": {}})


def test_a_repository_without_a_file_is_told(hub: Hub) -> None:
    del hub.repositories["model", PICK][REVISIONS[PICK]]["config.json"]
    with pytest.raises(UserError, match=rf"{PICK} has no config\.json at {REVISIONS[PICK]}"):
        fetching.run(["pickscore"], {})
    assert not asked_files(hub)


def test_what_has_no_weights_is_told() -> None:
    with pytest.raises(UserError, match=r"expected some of aesthetic_v2, .*; oracle has no published weights"):
        fetching.run(["oracle"], {})
    with pytest.raises(UserError, match="found 'pikscore'"):
        fetching.run(["pikscore"], {})


def test_every_source_is_pinned_by_a_whole_commit() -> None:
    from diffalign.core import axes

    for name in axes.names("diffalign.rewards"):
        for source in getattr(axes.load("diffalign.rewards", name), "SOURCES", ()):
            assert len(source.revision or "") == 40, source.repo


@pytest.fixture
def pickscore(tmp_path: Path) -> Callable[[str | None], dict[str, Any]]:
    """The settings of a PickScore here, with some digits of its weights."""
    folder = tiny_rewards.make("pickscore", tmp_path)
    return lambda sha256: {"path": str(folder), "batch_size": 2, "sha256": sha256}


def test_other_weights_than_params_say_are_refused(
    pickscore: Callable[[str | None], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """null is told how to become a value."""
    file = Path(pickscore(None)["path"]) / "model.safetensors"
    digits = weights.digest(file, "sha256").removeprefix("sha256:")[:12]
    rewards.load("pickscore", pickscore(None), "cpu")
    assert f"Write '{digits}' there" in capsys.readouterr().err
    rewards.load("pickscore", pickscore(digits), "cpu")
    with pytest.raises(UserError, match=f"expected weights '{'0' * 12}' in .*, found '{digits}'.*runs again"):
        rewards.load("pickscore", pickscore("0" * 12), "cpu")


def test_what_is_missing_is_known_without_loading(
    pickscore: Callable[[str | None], dict[str, Any]], repo: Path
) -> None:
    there = {"pickscore": pickscore(None), "oracle": {}}
    assert rewards.lacking(there) == []
    Path(pickscore(None)["path"], "vocab.json").unlink()
    (message,) = rewards.lacking(there)
    assert "without vocab.json" in message and "pipeline.py fetch --rewards pickscore" in message
    assert rewards.lacking(load_params(repo / "params.yaml").model_dump()["rewards"]) == []
