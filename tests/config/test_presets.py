"""The presets are valid params that say what they mean."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from diffalign.config import presets
from diffalign.config.load import load
from diffalign.config.methods import dpo as dpo_params
from diffalign.config.methods import sft as sft_params
from diffalign.core.errors import UserError
from diffalign.data.hub.pinned import PINNED
from diffalign.models import family as families

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_is_valid(file: Path) -> None:
    assert load(file).policies["base"].method == "none"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_parameter_is_explained_where_it_first_stands(file: Path) -> None:
    explained: set[str] = set()
    bare = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        above = file.read_text().splitlines()[number - 2].strip()
        key, colon, value = line.split("#")[0].strip().partition(":")
        if not colon or not value.strip() or key.startswith("#"):
            continue
        if "#" in line or above.startswith("#"):
            explained.add(key)
        elif key not in explained and key not in ("source", "family", "title"):
            bare.append(f"{file.name}:{number}: {key}")
    assert not bare


@pytest.mark.parametrize(("name", "warmup"), [("sd15", 500), ("sdxl", 200)])
def test_it_is_diffusion_dpo_as_published(name: str, warmup: int) -> None:
    values = load(ROOT / "presets" / f"{name}.yaml")
    dpo, sft = values.policies["dpo"], values.policies["sft"]
    assert isinstance(dpo, dpo_params.Settings) and isinstance(sft, sft_params.Settings)
    assert (dpo.batch_size, dpo.steps, dpo.warmup_steps, dpo.prompt_drop, dpo.beta) == (2048, 2000, warmup, 0.2, 5000)
    assert dpo.lr == pytest.approx(1e-8 * dpo.batch_size)  # --learning_rate 1e-8 --scale_lr
    own = {"method", "beta", "link", "safeguard", "curate"}
    assert dpo.model_dump(exclude=own) == sft.model_dump(exclude=own)  # SFT beside it differs in its method alone


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_it_names_the_folders_that_fetch_fills(name: str) -> None:
    values = load(ROOT / "presets" / f"{name}.yaml")
    assert Path(values.data.path) == PINNED["pickapic_v2"].folder
    assert values.model.family == name
    assert Path(values.model.path) == PINNED[name].folder
    assert {Path(policy.init) for policy in values.policies.values()} == {PINNED[name].folder}
    parts = sum(families.find(name).folders.values(), ())
    for folder in ("scheduler", *parts):
        assert any(pattern.startswith(f"{folder}/") for pattern in PINNED[name].patterns), folder


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_those_for_ones_own_pairs_train_what_fits_24_gb(name: str) -> None:
    """LoRA on the folder that fetch fills, judged by two judges, its pictures to be seen while it trains."""
    values = load(ROOT / "presets" / f"{name}-lora.yaml")
    dpo = values.policies["dpo"]
    assert isinstance(dpo, dpo_params.Settings) and dpo.lora and dpo.lora.rank == 8
    assert Path(values.model.path) == PINNED[name].folder
    assert list(values.rewards) == ["pickscore", "hpsv2_1"] and not values.evaluate.families
    assert dpo.steps * dpo.batch_size / 3000 < 12  # epochs of 3,000 pairs


@pytest.mark.parametrize("file", FILES[1:], ids=lambda file: file.name)
def test_a_preset_shows_pictures_while_it_trains(file: Path) -> None:
    values = load(file)
    assert values.probe.every and values.probe.images == 8


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder under git with the project's params and presets."""
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "params"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_preset_replaces_params_that_are_in_git(project: Path) -> None:
    text = presets.use("sd15")
    assert (project / "params.yaml").read_bytes() == (project / "presets/sd15.yaml").read_bytes()
    assert "python pipeline.py fetch" in text and "fetch --rewards" not in text
    assert "already" in presets.use("sd15")
    text = presets.use("sd15-lora")
    assert "import SOURCE --to data/raw/mine" in text
    assert text.endswith("Weights of pickscore and hpsv2_1: python pipeline.py fetch --rewards")


def test_edited_params_are_kept(project: Path) -> None:
    raw = yaml.safe_load((project / "params.yaml").read_text())
    raw["policies"]["dpo"]["beta"] = 3000
    (project / "params.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match="would overwrite"):
        presets.use("sd15")
    assert yaml.safe_load((project / "params.yaml").read_text()) == raw
    presets.use("sd15", force=True)
    assert load(project / "params.yaml").model.path == "models/base/sd15"


def test_an_unknown_preset_is_named(project: Path) -> None:
    with pytest.raises(UserError, match=r"expected one of sd15, sd15-lora, sd3, sdxl, sdxl-lora.*got 'sd9'"):
        presets.use("sd9")
