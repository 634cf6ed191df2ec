"""precompute: what it stores, how it goes on after a kill and a full disk, what it refuses."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from diffalign.config.load import parse
from diffalign.config.params import Params
from diffalign.core import files
from diffalign.core.errors import UserError
from diffalign.data import images
from diffalign.data.comparisons.table import COMPARISON_SCHEMA, IMAGE_SCHEMA
from diffalign.data.shards import reader as shards
from diffalign.models import family as families
from diffalign.models.sd15 import SD15
from stages import precompute
from tests.helpers.tiny import TOKENS, WIDTH, make_model

REPO = Path(__file__).resolve().parents[2]
PROMPTS = ["a small red circle", "", "日本の猫 — naïve", "a big blue square"]
COUNT = 21
"""Images that comparisons show: 6 shards of 4, the last with one."""


def encoded_image(number: int) -> bytes:
    """A smooth picture of an odd size, as PNG or JPEG, a function of its number."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    buffer = io.BytesIO()
    coarse.resize((50 + 7 * (number % 5), 64 + number), Image.Resampling.BICUBIC).save(
        buffer, ("PNG", "JPEG")[number % 2]
    )
    return buffer.getvalue()


DATA = {hashlib.sha256(data).hexdigest(): data for data in map(encoded_image, range(COUNT + 1))}
KEYS = list(DATA)[:COUNT]
UNUSED = list(DATA)[COUNT]


def write_comparisons(folder: Path, data: dict[str, bytes] = DATA, keys: list[str] = KEYS) -> None:
    """What ingest leaves: 40 comparisons of the images `keys` and, in two files, the images of `data`."""
    folder.mkdir(parents=True)
    rows = [
        {
            "comparison_id": f"c{i:03d}",
            "prompt": PROMPTS[i % len(PROMPTS)],
            "image_a": keys[i % COUNT],
            "image_b": keys[(i * 5 + 3) % COUNT],
            "answer": ("a", "b", "tie")[i % 3],
            "rater_id": "7",
            "source": "pickapic",
            "model_a": "x",
            "model_b": "y",
            "created_at": datetime(2023, 1, 1, tzinfo=UTC),
            "split": ("train", "validation", "test")[i % 3],
            "flags": [],
        }
        for i in range(40)
    ]
    pq.write_table(pa.Table.from_pylist(rows, COMPARISON_SCHEMA), folder / "comparisons.parquet")
    stored = [
        {"sha256": key, "bytes": value, "width": 64, "height": 64, "format": "PNG"} for key, value in data.items()
    ]
    for number, part in enumerate((stored[:13], stored[13:])):
        pq.write_table(pa.Table.from_pylist(part, IMAGE_SCHEMA), folder / f"images-{number:05d}.parquet")


def make_params(**changes: Any) -> Params:
    """The default params with the model in model/, and small shards and batches."""
    raw = yaml.safe_load((REPO / "params.yaml").read_text())
    raw["model"]["path"] = "model"
    raw["precompute"] = {"resolution": 64, "flips": False, "batch_size": 3, "shard_size": 4, **changes}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    return parse(raw)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a random model and comparisons, entered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFALIGN_DEVICE", "cpu")
    make_model(Path("model"))
    write_comparisons(Path("data/comparisons"))
    return tmp_path


def contents(folder: Path = Path("data/shards")) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def model() -> families.Family:
    return families.load("sd15", "model", ("vae", "text"))


def pixels(key: str) -> torch.Tensor:
    return torch.from_numpy(images.preprocess(images.decode(DATA[key], 10**6), 64))[None]


def test_every_image_and_prompt_once(project: Path) -> None:
    precompute.run(make_params())
    stored, prompts = shards.Shards("data/shards", "images"), shards.Shards("data/shards", "prompts")
    assert stored.keys() == sorted(KEYS)
    assert UNUSED not in stored
    assert prompts.keys() == sorted([*map(shards.prompt_key, PROMPTS), shards.UNCONDITIONAL])  # with the empty one
    assert [s["samples"] for s in stored.manifest["images"]["shards"]] == [4, 4, 4, 4, 4, 1]
    shards.verify(Path("data/shards"))
    assert not list(Path("runs").glob("precompute-*"))


def test_samples_are_the_models_encodings(project: Path) -> None:
    """Within float16's 2^-11 of what the model says of one image, or one prompt, at a time."""
    precompute.run(make_params())
    stored, prompts, family = shards.Shards("data/shards"), shards.Shards("data/shards", "prompts"), model()
    for key in KEYS:
        found = stored.get(key)
        assert found.keys() == {"mean", "logvar"}
        for name, value in family.encode_image(pixels(key)).items():
            assert found[name].shape == (4, 8, 8)
            torch.testing.assert_close(found[name], value[0], rtol=1e-3, atol=1e-4)
    for text in PROMPTS:
        found = prompts.get(shards.prompt_key(text))
        assert found["hidden"].shape == (TOKENS, WIDTH)
        torch.testing.assert_close(found["hidden"], family.encode_prompt([text])["hidden"][0], rtol=1e-3, atol=1e-4)


def test_an_empty_prompt_that_nobody_wrote_is_there(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree("data/comparisons")
    monkeypatch.setattr(f"{__name__}.PROMPTS", ["a", "b"])
    write_comparisons(Path("data/comparisons"))
    precompute.run(make_params())
    assert shards.prompt_key("") in shards.Shards("data/shards", "prompts")


def test_flips_are_encodings_of_the_mirrored_image(project: Path) -> None:
    precompute.run(make_params(flips=True))
    stored, family = shards.Shards("data/shards"), model()
    for key in KEYS[:5]:
        found = stored.get(key)
        assert found.keys() == {"mean", "logvar", "mean_flip", "logvar_flip"}
        for name, value in family.encode_image(pixels(key).flip(-1)).items():
            torch.testing.assert_close(found[f"{name}_flip"], value[0], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(found["mean_flip"], found["mean"])
    shards.check_fingerprint(stored.manifest, family.fingerprint(), 64, flips=True)


def test_the_same_inputs_give_the_same_bytes(project: Path) -> None:
    precompute.run(make_params())
    first = contents()
    precompute.run(make_params())
    assert contents() == first


def test_shards_know_their_model(project: Path) -> None:
    precompute.run(make_params())
    manifest = shards.read_manifest(Path("data/shards"))
    shards.check_fingerprint(manifest, model().fingerprint(), 64)
    make_model(Path("other"), seed=1)
    with pytest.raises(UserError, match=r"vae: expected") as caught:
        shards.check_fingerprint(manifest, families.load("sd15", "other", ()).fingerprint(), 64)
    assert "tokenizer" not in str(caught.value)  # that one is the same


def test_images_are_decoded_as_they_are_needed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches ahead and no more, however many images there are."""
    decoded, encoded, most = [0], [0], [0]
    decode, encode = images.decode, SD15.encode_image

    def counted_decode(*arguments: Any) -> Any:
        decoded[0] += 1
        most[0] = max(most[0], decoded[0] - encoded[0])
        return decode(*arguments)

    def counted_encode(self: Any, x: torch.Tensor) -> Any:
        encoded[0] += len(x)
        return encode(self, x)

    monkeypatch.setattr(images, "decode", counted_decode)
    monkeypatch.setattr(SD15, "encode_image", counted_encode)
    precompute.run(make_params(batch_size=2))
    assert decoded == encoded == [COUNT]
    assert most[0] <= 2 + 2 * 2


KILLED_AND_RESUMED = """
import json, os, pathlib, signal, sys
from diffalign.config.load import load, parse
from diffalign.config.params import Params
from diffalign.models.sd15 import SD15
from stages import precompute

deadly, calls, encode = None, [], SD15.encode_image

def encode_image(self, pixels):
    if len(calls) == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(len(pixels))
    return encode(self, pixels)

SD15.encode_image = encode_image
child = os.fork()  # before any thread; the imports take most of this test's time
if child == 0:
    deadly = 5
    precompute.run(load())
    os._exit(0)
status = os.waitpid(child, 0)[1]
seen = {"status": status, "left": sorted(map(str, pathlib.Path().glob("runs/precompute-*/out/[!.]*")))}
seen["published"] = os.path.exists("data/shards")
for folder in (".", "undisturbed"):
    os.chdir(folder)
    calls.clear()
    precompute.run(load())
    seen[folder] = sum(calls)
print(json.dumps(seen))
"""


def test_killed_in_mid_run_it_ends_with_the_same_bytes(project: Path) -> None:
    """SIGKILL in the third shard, after one of its two batches; beside it, a run that nobody disturbed."""
    make_params()
    shutil.copytree(project, project / "undisturbed")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-W", "ignore", "-c", KILLED_AND_RESUMED]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    assert os.WIFSIGNALED(seen["status"]) and os.WTERMSIG(seen["status"]) == signal.SIGKILL
    assert [Path(path).name for path in seen["left"]] == ["images-00000.tar", "images-00001.tar"]
    assert not seen["published"]
    assert seen["."] == COUNT - 8  # the two finished shards weren't encoded again
    assert seen["undisturbed"] == COUNT
    assert contents() == contents(project / "undisturbed" / "data" / "shards")
    assert not list(Path("runs").glob("precompute-*"))


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project in a file system of its own, 8 MiB large; skipped where mounting isn't permitted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs isn't permitted here")
    with monkeypatch.context() as patch:
        patch.chdir(disk)
        patch.setenv("DIFFALIGN_DEVICE", "cpu")
        make_model(Path("model"))
        write_comparisons(Path("data/comparisons"))
        yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    """A real file system with room for some of the shards: UserError, and what's finished is kept and gone on from."""
    values = make_params()
    free = os.statvfs(small_disk)
    Path("filler").write_bytes(bytes(free.f_bavail * free.f_frsize - 56 * 1024))
    with pytest.raises(UserError, match=r"No space left while writing runs/precompute-.*images-0000\d\.tar"):
        precompute.run(values)
    assert not Path("data/shards").exists()
    (work,) = Path("runs").glob("precompute-*")
    kept = contents(work / "out")
    assert 1 <= len(kept) < 6
    assert not [name for name in kept if name.endswith(".tmp")]

    Path("filler").unlink()
    precompute.run(values)
    finished = contents()
    assert finished.items() >= kept.items()
    precompute.run(values)
    assert contents() == finished


def test_a_second_run_beside_the_first_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = project / "runs" / "work"
    work.mkdir(parents=True)
    monkeypatch.setattr(files, "work_folder", lambda *_: work)
    with files.lock(work), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        precompute.run(make_params())


def break_model(how: str) -> None:
    """Makes model/ one of the things that aren't a model."""
    weights = Path("model/vae/diffusion_pytorch_model.safetensors")
    if how == "not there":
        shutil.rmtree("model")
    elif how == "a file":
        shutil.rmtree("model")
        Path("model").write_text("weights")
    elif how == "no text encoder":
        shutil.rmtree("model/text_encoder")
    elif how == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "no weights":
        weights.unlink()
    elif how == "broken config":
        Path("model/vae/config.json").write_text('{"_class_name": "Autoenc')
    elif how == "empty tokenizer":
        shutil.rmtree("model/tokenizer")
        Path("model/tokenizer").mkdir()
    elif how == "truncated text encoder":
        path = Path("model/text_encoder/model.safetensors")
        path.write_bytes(path.read_bytes()[:500])
    elif how.endswith("without a tensor"):  # the libraries would draw it at random, with a warning at most
        path = next(Path("model", how.partition(" ")[0]).glob("*.safetensors"))
        tensors = load_file(path)
        del tensors[max(name for name in tensors if name.endswith(".weight"))]
        save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize(
    "how",
    [
        "not there",
        "a file",
        "no text encoder",
        "truncated weights",
        "no weights",
        "broken config",
        "empty tokenizer",
        "truncated text encoder",
        "vae without a tensor",
        "text_encoder without a tensor",
    ],
)
def test_a_folder_that_is_not_a_model(project: Path, how: str) -> None:
    break_model(how)
    with pytest.raises(UserError, match="model"):
        precompute.run(make_params())
    assert not Path("data/shards").exists()


def test_an_unreadable_image_is_named(project: Path) -> None:
    broken = DATA[KEYS[6]][:-300]
    name = hashlib.sha256(broken).hexdigest()
    keys = [name if key == KEYS[6] else key for key in KEYS]
    shutil.rmtree("data/comparisons")
    write_comparisons(Path("data/comparisons"), {**DATA, name: broken}, keys)
    with pytest.raises(UserError, match=f"Image {name} .*truncated"):
        precompute.run(make_params())


def test_a_missing_image_is_named(project: Path) -> None:
    shutil.rmtree("data/comparisons")
    write_comparisons(Path("data/comparisons"), {key: data for key, data in DATA.items() if key != KEYS[6]})
    with pytest.raises(UserError, match=f"1 are missing, {KEYS[6]}.*repro --force ingest"):
        precompute.run(make_params())


def test_progress_is_shown(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    precompute.run(make_params())
    shown = capfd.readouterr().err
    assert f"precompute images: {COUNT}/{COUNT}" in shown and "ETA" in shown
    assert f"precompute prompts: {len(PROMPTS) + 1}/{len(PROMPTS) + 1}" in shown


def test_the_unconditional_condition_is_a_record_of_the_prompts(project: Path) -> None:
    """The last one, so that the prompts' own records are where they were; for this family it's the empty prompt's."""
    precompute.run(make_params())
    prompts = shards.Shards("data/shards", "prompts")
    found = prompts.get(shards.UNCONDITIONAL)
    torch.testing.assert_close(found["hidden"], model().unconditional()["hidden"][0], rtol=1e-3, atol=1e-4)
    assert torch.equal(found["hidden"], prompts.get(shards.prompt_key(""))["hidden"])
    assert [s["samples"] for s in prompts.manifest["prompts"]["shards"]] == [4, 1]


def test_prompts_cut_by_the_encoder_are_counted(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The tiny encoder reads 12 tokens, two of them its marks: ten letters fit, eleven don't."""
    shutil.rmtree("data/comparisons")
    monkeypatch.setattr(f"{__name__}.PROMPTS", ["abcdefghij", "abcdefghijk", "a rather longer prompt"])
    write_comparisons(Path("data/comparisons"))
    precompute.run(make_params())
    assert shards.read_manifest(Path("data/shards"))["cut_prompts"] == {"tokenizer": 2}
    assert "2 of 4 prompts are longer than the text encoder reads (tokenizer)" in capfd.readouterr().err


def test_an_encoding_that_is_not_finite_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode_prompt = SD15.encode_prompt

    def broken(self: Any, prompts: Any) -> Any:
        cond = encode_prompt(self, prompts)
        cond["hidden"][0, 0, 0] = float("nan")
        return cond

    monkeypatch.setattr(SD15, "encode_prompt", broken)
    with pytest.raises(UserError, match=r"the text encoder's hidden for .* has 1 of .* NaN or infinite.*model\.path"):
        precompute.run(make_params())
    assert not Path("data/shards").exists()
