"""Fetching from a stand-in of the hub on loopback, by the real client: pins, resumption, checksums, clear errors."""

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from diffalign.config.load import load, parse, read
from diffalign.core.errors import UserError
from diffalign.data.hub.fetch import fetch, read_lock, run, wanted
from diffalign.data.hub.pinned import PINNED
from tests.helpers.hub import Hub

UNET = "unet/diffusion_pytorch_model.safetensors"
SD15, V2 = PINNED["sd15"], PINNED["pickapic_v2"]
OLD, NEW = "0123456" + "0" * 33, V2.revision + "a" * (40 - len(V2.revision))
BIG = random.Random(0).randbytes(25_000_000)  # the client writes pieces of 10 MiB
MODEL = {
    "model_index.json": b"{}",
    "scheduler/scheduler_config.json": b'{"a": 1}',
    "tokenizer/merges.txt": b"a b",
    "text_encoder/model.safetensors": b"t" * 1000,
    "unet/config.json": b'{"b": 2}',
    UNET: BIG,
    "unet/diffusion_pytorch_model.bin": b"a pickle",
    "unet/diffusion_pytorch_model.fp16.safetensors": b"half",
    "v1-5-pruned.ckpt": b"a pickle",
}
DATA = {
    **{f"data/train-0000{i}-of-00004-abc.parquet": b"train %d" % i * 100 for i in range(4)},
    "data/validation-00000-of-00001-d.parquet": b"twice",
    "data/validation_unique-00000-of-00001-e.parquet": b"validation" * 50,
    "data/test_unique-00000-of-00001-f.parquet": b"test" * 50,
    "README.md": b"# a data set",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub(
        {
            ("model", SD15.repo): {SD15.revision: MODEL},
            ("dataset", V2.repo): {OLD: {}, NEW: DATA, "f" * 40: {}, "e" * 40: {}},
        }
    )
    yield hub
    hub.close()


@pytest.fixture
def here(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, made the current one, with the stand-in as the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def asked_files(hub: Hub) -> list[str]:
    return [path for path, _ in hub.requests if "/resolve/" in path]


def test_the_pinned_weights_arrive_and_nothing_else(hub: Hub, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch("sd15") == SD15.folder
    skipped = ("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "v1-5-pruned.ckpt")
    arrived = tree(SD15.folder)
    noted = json.loads(arrived.pop("checksums.json"))["files"]
    assert arrived == {k: v for k, v in MODEL.items() if k not in skipped}
    entry = read_lock()["sd15"]
    assert entry["commit"] == SD15.revision
    assert set(entry["files"]) == set(arrived)
    assert noted == entry["files"], "loading the model checks the files by what the hub says of them"
    assert all(f"/resolve/{SD15.revision}/" in path for path in asked_files(hub))

    hub.requests.clear()
    fetch("sd15")
    assert "To download: 0 files" in capsys.readouterr().out
    assert not asked_files(hub)


def test_a_part_of_the_data_at_a_commit_known_by_its_first_digits(hub: Hub, here: Path) -> None:
    fetch("pickapic_v2", limit=2)
    got = tree(V2.folder)
    assert sorted(got) == [
        "test_unique-00000-of-00001-f.parquet",
        "train-00000-of-00004-abc.parquet",
        "train-00001-of-00004-abc.parquet",
        "validation_unique-00000-of-00001-e.parquet",
    ]
    assert all(DATA[f"data/{name}"] == data for name, data in got.items())
    assert (read_lock()["pickapic_v2"]["revision"], read_lock()["pickapic_v2"]["commit"]) == (V2.revision, NEW)

    # More of it later: the commit is known, and only what is new is brought.
    hub.requests.clear()
    fetch("pickapic_v2")
    assert len(tree(V2.folder)) == 6
    assert len(asked_files(hub)) == 2
    assert not [path for path, _ in hub.requests if "/commits/" in path]


def test_a_killed_fetch_goes_on_at_the_byte(hub: Hub, here: Path, repo: Path) -> None:
    hub.stall[UNET] = 15_000_000
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(repo)}
    body = "from diffalign.data.hub.fetch import fetch; fetch('sd15')"
    process = subprocess.Popen([sys.executable, "-c", body], env=environment)
    part = SD15.folder / ".part" / f"{UNET.replace('/', '--')}.part"
    for _ in range(300):
        if part.exists() and part.stat().st_size >= 10_000_000:
            break
        time.sleep(0.1)
    process.kill()
    process.wait()
    arrived = part.stat().st_size
    assert 10_000_000 <= arrived < len(BIG)
    assert not (SD15.folder / UNET).exists()

    hub.requests.clear()
    fetch("sd15")
    assert (SD15.folder / UNET).read_bytes() == BIG
    assert not part.parent.exists()
    assert [span for path, span in hub.requests if path.endswith(UNET)] == [f"bytes={arrived}-"]


def test_parts_of_files_that_were_not_asked_for_stay(hub: Hub, here: Path) -> None:
    part = SD15.folder / ".part" / "another.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half a file")
    fetch("sd15")
    assert part.read_bytes() == b"half a file" and list(part.parent.iterdir()) == [part]


def test_a_broken_connection_is_taken_up_again(hub: Hub, here: Path) -> None:
    hub.stall[UNET] = 15_000_000
    hub.resume.set()  # so the server hangs up after those bytes
    fetch("sd15")
    assert (SD15.folder / UNET).read_bytes() == BIG
    assert [span for path, span in hub.requests if path.endswith(UNET)] == ["", f"bytes={10 * 2**20}-"]


@pytest.mark.parametrize("path", [UNET, "unet/config.json"])
def test_a_damaged_file_is_not_accepted(hub: Hub, here: Path, path: str) -> None:
    hub.damage.add(path)
    with pytest.raises(UserError, match="arrived damaged"):
        fetch("sd15")
    assert not (SD15.folder / path).exists()
    hub.damage.clear()
    fetch("sd15")
    assert (SD15.folder / path).read_bytes() == MODEL[path]


def test_a_file_that_changed_here_is_brought_again(hub: Hub, here: Path) -> None:
    target = SD15.folder / "unet/config.json"
    target.parent.mkdir(parents=True)
    target.write_bytes(b'{"b": 3}')  # the same size, other content, unknown to the lock file
    fetch("sd15")
    assert target.read_bytes() == MODEL["unet/config.json"]


def test_a_file_that_was_copied_here_is_taken(hub: Hub, here: Path) -> None:
    target = SD15.folder / UNET
    target.parent.mkdir(parents=True)
    target.write_bytes(BIG)
    fetch("sd15")
    assert not [path for path in asked_files(hub) if path.endswith(UNET)]
    assert UNET in read_lock()["sd15"]["files"]


def test_a_full_disk_is_told_before(hub: Hub, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=20_000_000))
    with pytest.raises(UserError, match=r"needs 25\.0 MB more, its disk has 20\.0 MB"):
        fetch("sd15")
    assert not asked_files(hub)


def test_another_revision_does_not_mix_with_what_is_here(hub: Hub, here: Path) -> None:
    fetch("pickapic_v2", limit=1)
    with pytest.raises(UserError, match=f"holds {V2.repo} at {V2.revision}; asked is {V2.repo} at {'f' * 40}"):
        fetch("pickapic_v2", revision="f" * 40)


def test_a_copy_elsewhere(hub: Hub, here: Path) -> None:
    hub.repositories["dataset", "me/mine"] = {"1" * 40: DATA}
    fetch("pickapic_v2", repo="me/mine")
    assert read_lock()["pickapic_v2"]["commit"] == "1" * 40
    assert len(tree(V2.folder)) == 6


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("sd15", None, None, "0" * 40), "has no revision 000"),
        (("sd15", None, "nobody/nothing"), "isn't there, or isn't public"),
        (("pickapic_v2", None, None, "abcdef0"), "expected one commit that begins with abcdef0, found 0"),
        (("pickapic_v2", None, None, "f" * 40), "has no file like"),
        (("laion",), "expected one of sd15, sdxl, sd3, pickapic_v2, pickapic_v1, parti.*, got 'laion'"),
    ],
)
def test_what_the_user_can_mend_is_said(hub: Hub, here: Path, arguments: tuple[Any, ...], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        fetch(*arguments)


def test_a_gated_repository_asks_for_consent(hub: Hub, here: Path) -> None:
    hub.gated.add(SD15.repo)
    with pytest.raises(UserError, match="asks for consent"):
        fetch("sd15")


def test_no_network(hub: Hub, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.close()
    with pytest.raises(UserError, match="can't be reached"):
        fetch("sd15")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        fetch("sd15")


def test_what_params_need(repo: Path) -> None:
    for name in ("sd15", "sdxl", "sd3"):
        assert wanted(load(repo / "presets" / f"{name}.yaml").inputs()) == [name, "pickapic_v2"]
    with pytest.raises(UserError, match="needs nothing that is fetched"):
        wanted(load(repo / "params.yaml").inputs())
    raw = read(repo / "params.yaml")
    raw["generate"]["prompts"] = {"test": 4, "parti": "all"}
    raw["data"]["drop_prompts_of"] = ["parti", "hpsv2"]
    assert wanted(parse(raw).inputs()) == ["parti", "hpsv2_prompts"]


def test_one_source_for_one_repository() -> None:
    with pytest.raises(UserError, match="are for one source, got sd15, pickapic_v2"):
        run([str(SD15.folder), str(V2.folder)], repo="me/mine")


def test_pins_are_commits_and_folders_are_apart() -> None:
    assert len({pinned.folder for pinned in PINNED.values()}) == len(PINNED)
    assert all(re.fullmatch("[0-9a-f]{7,40}", pinned.revision) for pinned in PINNED.values())
