"""Shards: written the same twice, read in any order, refused when a bit is wrong."""

import errno
import gc
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import tarfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from diffalign.core import files
from diffalign.core.errors import UserError
from diffalign.data.shards import reader as shards
from diffalign.data.shards import writer as shard_writer
from diffalign.data.shards.writer import Sample

IMAGES, PROMPTS, SHARD_SIZE = 23, 5, 8
MODEL = {"family": "sd15", "vae": "aa", "text_encoder": "bb", "tokenizer": "cc"}


def key(kind: str, number: int) -> str:
    return hashlib.sha256(f"{kind} {number}".encode()).hexdigest()


def keys(kind: str) -> list[str]:
    return [key(kind, i) for i in range(IMAGES if kind == "images" else PROMPTS)]


def tensors(name: str) -> dict[str, Tensor]:
    """Values that float16 holds exactly, a function of the key."""
    generator = torch.Generator().manual_seed(int(name[:8], 16))
    return {part: torch.randn(4, 8, 8, generator=generator).half().float() for part in ("mean", "logvar")}


def samples(plan: list[list[str]]) -> Iterator[Sample]:
    for shard in plan:
        for name in shard:
            yield Sample(name, tensors(name), {"width": 3, "note": "été"})


def write(work: Path, encode: Callable[[list[list[str]]], Iterator[Sample]] = samples) -> Path:
    """Writes all shards in a work folder and returns the folder that holds them."""
    work.mkdir(exist_ok=True)
    records = {
        kind: shard_writer.write_shards(work, kind, keys(kind), SHARD_SIZE, encode) for kind in ("images", "prompts")
    }
    shard_writer.finish(work, records, shards.fingerprint(MODEL, resolution=24, flips=False), {"tokenizer": 0})
    return work / "out"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "shards"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def flip_bit(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def assert_right(reader: shards.Shards, name: str) -> None:
    found = reader.get(name)
    assert found.keys() == {"mean", "logvar"}
    for part, value in tensors(name).items():
        assert found[part].dtype == torch.float32
        assert torch.equal(found[part], value)


@pytest.mark.parametrize("kind", ["images", "prompts"])
def test_reads_what_was_written(written: Path, kind: shards.Kind) -> None:
    reader = shards.Shards(written, kind)
    assert reader.keys() == sorted(keys(kind))
    assert len(reader) == len(keys(kind))
    for name in np.random.default_rng(0).permutation(keys(kind)):
        assert name in reader
        assert_right(reader, str(name))
    reader.verify()


def test_unknown_keys(written: Path) -> None:
    reader = shards.Shards(written)
    first = key("images", 0)
    for unknown in (key("images", 99), key("prompts", 0), "", "not hex", first + "00", first[:-2]):
        assert unknown not in reader
        with pytest.raises(UserError, match="dvc repro precompute"):
            reader.get(unknown)


def test_returned_tensors_are_copies(written: Path) -> None:
    reader = shards.Shards(written)
    reader.get(key("images", 0))["mean"].zero_()
    assert_right(reader, key("images", 0))


def test_same_samples_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    assert contents(write(tmp_path / "again")) == contents(written)


def test_manifest_names_every_file(written: Path) -> None:
    manifest = shards.read_manifest(written)
    entries = [manifest["index"], *manifest["images"]["shards"], *manifest["prompts"]["shards"]]
    assert {e["name"] for e in entries} | {"manifest.json"} == {p.name for p in written.iterdir()}
    for entry in entries:
        data = (written / entry["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
    assert [s["samples"] for s in manifest["images"]["shards"]] == [8, 8, 7]
    assert manifest["images"]["samples"] == IMAGES


def test_the_tar_is_a_plain_one(written: Path) -> None:
    with tarfile.open(written / "images-00000.tar") as tar:
        members = tar.getmembers()
        assert [m.name for m in members] == [f"{k}.{e}" for k in keys("images")[:8] for e in ("json", "safetensors")]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
        about = tar.extractfile(members[0])
        assert about is not None
        assert json.loads(about.read()) == {"key": key("images", 0), "width": 3, "note": "été"}


def test_webdataset_reads_the_shards(written: Path) -> None:
    """WebDataset's own sequential reader, without `decode()`, which would unpickle some kinds of members."""
    import webdataset

    names = [str(written / s["name"]) for s in shards.read_manifest(written)["images"]["shards"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its files to the garbage collector
        found = list(webdataset.WebDataset(names, shardshuffle=False, empty_check=False))
        gc.collect()
    assert [sample["__key__"] for sample in found] == keys("images")
    for sample in found:
        stored = safetensors.torch.load(sample["safetensors"])
        for part, value in tensors(sample["__key__"]).items():
            assert torch.equal(stored[part].float(), value)
        assert json.loads(sample["json"])["width"] == 3


def test_flipped_bits_never_pass(folder: Path) -> None:
    """Any bit of a shard: `verify` names the shard, and no `get`, verified or not, gives other values."""
    path = folder / "images-00001.tar"
    rng = np.random.default_rng(0)
    whole = path.read_bytes()
    noticed = 0
    for bit in rng.choice(8 * len(whole), 150, replace=False):
        flip_bit(path, int(bit))
        reader = shards.Shards(folder)
        with pytest.raises(UserError, match=r"images-00001\.tar is damaged.*dvc repro precompute"):
            reader.verify()
        for name in keys("images"):
            try:
                assert_right(reader, name)
            except UserError as error:
                assert name in keys("images")[8:16]
                assert "images-00001.tar is damaged" in str(error)
                noticed += 1
        path.write_bytes(whole)
    assert noticed > 30  # the others hit headers, padding and JSON, which `get` doesn't return


@pytest.mark.parametrize("name", ["manifest.json", "index.safetensors"])
def test_flipped_bits_in_index_and_manifest_never_pass(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    before = shards.read_manifest(folder)
    for bit in np.random.default_rng(1).choice(8 * len(whole), 200, replace=False):
        flip_bit(path, int(bit))
        try:
            assert shards.Shards(folder).manifest == before and name == "manifest.json"  # a space became a tab, say
        except UserError as error:
            assert name in str(error) and "damaged" in str(error)
        path.write_bytes(whole)


def test_damage_after_opening_is_noticed(folder: Path) -> None:
    reader = shards.Shards(folder)
    reader.verify()
    wanted = keys("images")[9]
    stored = (folder / "images-00001.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(stored)) as tar:
        start = tar.getmember(f"{wanted}.safetensors").offset_data
    with open(folder / "images-00001.tar", "r+b") as file:
        file.seek(start + 300)
        byte = file.read(1)[0]
        file.seek(start + 300)
        file.write(bytes([byte ^ 4]))
    with pytest.raises(UserError, match=f"sample {wanted} doesn't match its checksum"):
        reader.get(wanted)


@pytest.mark.parametrize("change", ["truncated", "longer", "missing", "empty"])
@pytest.mark.parametrize("name", ["images-00002.tar", "index.safetensors"])
def test_wrong_sizes_are_refused_at_opening(folder: Path, name: str, change: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes({"truncated": data[:-512], "longer": data + bytes(512)}.get(change, b""))
    if change == "missing":
        (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is damaged"):
        shards.Shards(folder)


def test_verify_names_all_damaged_shards(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flip_bit(folder / "images-00000.tar", 5000)
    flip_bit(folder / "images-00002.tar", 5000)
    with pytest.raises(UserError, match=r"images-00000\.tar has SHA-256 .*images-00002\.tar has SHA-256"):
        shards.verify(folder)
    assert "verify images: 3/3" in capfd.readouterr().err


def test_no_shards_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json is missing.*dvc repro precompute"):
        shards.Shards(tmp_path)


def rewrite(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes an edited manifest with the checksum of what it says now."""
    (folder / "manifest.json").write_text(json.dumps(manifest | {"checksum": files.checksum_of(manifest)}))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All paths to values below a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, below in items:
        yield (*path, name)
        yield from places(below, (*path, name))


def test_an_edited_manifest_is_named_with_its_stage(folder: Path) -> None:
    """Each value removed, and replaced by others; checksums mended. The model's own fingerprint may say anything."""
    whole = json.loads((folder / "manifest.json").read_text())
    refused = 0
    for path in places(whole):
        for new in ("removed", None, -1, "x", [], {}, 1e300):
            edited = json.loads(json.dumps(whole))
            holder = reduce(lambda value, name: value[name], path[:-1], edited)
            if new == "removed":
                del holder[path[-1]]
            else:
                holder[path[-1]] = new
            rewrite(folder, edited)
            try:
                shards.Shards(folder, "images")
                shards.Shards(folder, "prompts")
            except UserError as error:
                assert "precompute" in str(error) and str(folder) in str(error)
                refused += 1
            else:
                assert path[0] in ("fingerprint", "checksum", "cut_prompts") or path[-1] == "sha256", (path, new)
    assert refused > 200


@pytest.mark.parametrize("text", ["", "[]", "1", "null", "[" * 100_000, '{"checksum": NaN}', "\xff"])
def test_what_is_no_manifest_is_damaged(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"manifest\.json is damaged.*dvc repro precompute"):
        shards.read_manifest(folder)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"name": "x", "samples": 1, "bytes": 2, "sha256": "y"}'])
def test_a_damaged_record_of_unfinished_work_is_made_again(written: Path, tmp_path: Path, text: str) -> None:
    write(tmp_path / "work")
    (tmp_path / "work" / "images-00001.tar.json").write_text(text)
    assert contents(write(tmp_path / "work")) == contents(written)


def test_other_formats_are_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["fingerprint"]["format"] = shards.FORMAT + 1
    manifest["checksum"] = files.checksum_of(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"format {shards.FORMAT + 1}.*reads format {shards.FORMAT}"):
        shards.Shards(folder)


def test_fingerprints(written: Path) -> None:
    manifest = shards.read_manifest(written)
    shards.check_fingerprint(manifest, MODEL)
    shards.check_fingerprint(manifest, MODEL, resolution=24)
    with pytest.raises(UserError, match=r"(?s)vae: expected 'xx', the shards have 'aa'.*repro precompute") as caught:
        shards.check_fingerprint(manifest, {**MODEL, "vae": "xx"})
    assert "tokenizer" not in str(caught.value)
    with pytest.raises(UserError, match="resolution: expected 512, the shards have 24"):
        shards.check_fingerprint(manifest, MODEL, resolution=512)
    with pytest.raises(UserError, match="second_encoder: expected 'dd', the shards have None"):
        shards.check_fingerprint(manifest, {**MODEL, "second_encoder": "dd"})
    with pytest.raises(UserError, match="flips: expected mirrored images"):
        shards.check_fingerprint(manifest, MODEL, flips=True)


def read_all(reader: shards.Shards) -> bool:
    for name in keys("images"):
        assert_right(reader, name)
    return True


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python 3.12 and newer, of fork
def test_threads_forks_and_pickles(written: Path) -> None:
    reader = shards.Shards(written)
    read_all(reader)  # maps are open when the children start
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read_all, [reader] * 32))
    with multiprocessing.get_context("fork").Pool(2) as processes:
        assert all(processes.map(read_all, [reader] * 4))  # the pool's arguments are pickled
    inherited = multiprocessing.get_context("fork").Process(target=read_all, args=(reader,))
    inherited.start()
    inherited.join()
    assert inherited.exitcode == 0


def test_more_shards_than_are_kept_open(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "OPEN_SHARDS", 1)
    before = len(os.listdir("/proc/self/fd"))
    reader = shards.Shards(written)
    for _ in range(3):
        read_all(reader)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_an_interrupted_writer_goes_on(written: Path, tmp_path: Path) -> None:
    encoded = []

    def interrupted(plan: list[list[str]]) -> Iterator[Sample]:
        for sample in samples(plan):
            if len(encoded) == 11:
                raise KeyboardInterrupt
            encoded.append(sample.key)
            yield sample

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "work", interrupted)
    out = tmp_path / "work" / "out"
    assert sorted(contents(out)) == ["images-00000.tar"]
    (out / ".images-00001.tar.123.tmp").write_bytes(b"left by a killed process")

    again = []

    def recorded(plan: list[list[str]]) -> Iterator[Sample]:
        for sample in samples(plan):
            again.append(sample.key)
            yield sample

    assert contents(write(tmp_path / "work", recorded)) == contents(written)
    assert again == keys("images")[8:] + keys("prompts")


def test_a_shard_without_its_record_is_written_again(written: Path, tmp_path: Path) -> None:
    """A kill between a shard's rename and its record, or a record whose shard has another size."""
    write(tmp_path / "work")
    (tmp_path / "work" / "images-00002.tar.json").unlink()
    with open(tmp_path / "work" / "out" / "prompts-00000.tar", "ab") as file:
        file.write(b"x")
    assert contents(write(tmp_path / "work")) == contents(written)


def test_a_full_disk_keeps_what_was_finished(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own ENOSPC, from /dev/full, while the second shard is written."""

    def full_device(path: Path) -> Path:
        name = path.with_name(f".{path.name}.tmp")
        if path.name == "images-00001.tar":
            name.symlink_to("/dev/full")
        return name

    with monkeypatch.context() as patch:
        patch.setattr(files, "temporary_name", full_device)
        with pytest.raises(
            UserError, match=r"No space left while writing .*images-00001\.tar.*the same command"
        ) as caught:
            write(tmp_path / "work")
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.ENOSPC
    assert sorted(contents(tmp_path / "work" / "out")) == ["images-00000.tar"]
    assert Path("/dev/full").exists()
    assert contents(write(tmp_path / "work")) == contents(written)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70000.0])
def test_values_that_float16_cannot_hold_are_refused(tmp_path: Path, value: float) -> None:
    def broken(plan: list[list[str]]) -> Iterator[Sample]:
        yield Sample(plan[0][0], {"mean": torch.tensor([0.0, value])}, {})

    with pytest.raises(
        UserError, match=f"mean for {keys('images')[0]} has (1 of 2 values that are NaN|values up to 7e\\+04, beyond)"
    ):
        write(tmp_path / "work", broken)


def test_no_images(tmp_path: Path) -> None:
    records = {"images": [], "prompts": shard_writer.write_shards(tmp_path, "prompts", keys("prompts"), 8, samples)}
    shard_writer.finish(tmp_path, records, shards.fingerprint(MODEL, 24, False), {})
    reader = shards.Shards(tmp_path / "out", "images")
    assert len(reader) == 0 and reader.keys() == [] and key("images", 0) not in reader
    shards.verify(tmp_path / "out")
