"""`push` to a stand-in of the hub on loopback, by the real client: the files, the card, what is sent again, errors."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from diffalign.commands import export, push
from diffalign.commands.export import Wanted
from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.reporting import card_file
from stages import report
from tests.helpers.hub import READER, WRITER, Hub
from tests.helpers.project import make_params
from tests.helpers.report_inputs import POLICIES, SETTINGS, write_inputs
from tests.helpers.tiny import make_model
from tests.models.test_export import make_policy
from tests.reporting.test_card import LORA

# huggingface_hub 2.4 passes its files to httpx2 by a keyword that httpx2 no longer wants.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A project with a policy of LoRA, dpo, one of all weights, sft, and a report of them."""
    folder = tmp_path_factory.mktemp("push")
    write_inputs(folder)
    make_model(folder / "model")
    (folder / "models").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for adapter, name in (("lora", "dpo"), ("full", "sft"), ("none", "base")):
            make_policy(Path(), adapter).rename(Path("policies") / name)
        Path("policies").rename("models/policies")
        values = make_params(folder, POLICIES | {"dpo": POLICIES["dpo"] | {"lora": LORA}}, report=SETTINGS)
        report.run(values)
    return folder, values


@pytest.fixture
def params(made: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(made[0])
    return made[1]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, and a writer's token in the environment; the large files go by git-lfs's protocol, not Xet's."""
    hub = Hub({})
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield hub
    hub.close()


def pushed(hub: Hub, repo: str = "me/taste") -> dict[str, bytes]:
    """The files of the last commit."""
    return list(hub.repositories["model", repo].values())[-1]


def test_a_lora_and_its_card_are_on_the_hub_and_nothing_is_sent_twice(params: Params, hub: Hub) -> None:
    told = push.run(params, "me/taste", None, None, None, private=True)
    files = pushed(hub)
    assert sorted(files) == ["README.md", "dpo.safetensors", "export.json", "images.png"]
    assert files["dpo.safetensors"] == Path("models/policies/dpo/pytorch_lora_weights.safetensors").read_bytes()
    text = files["README.md"].decode()
    assert text.startswith("---\n") and 'load_lora_weights("me/taste", weight_name="dpo.safetensors")' in text
    assert "dpo as lora is at https://huggingface.co/me/taste" in told and "licence isn't known here" in told
    assert hub.private == {"me/taste"} and len(hub.puts) == 2
    assert not list(Path("runs").glob("push-*"))
    push.run(params, "me/taste", "dpo", "lora", None, private=False)
    assert len(hub.puts) == 2 and len(hub.repositories["model", "me/taste"]) == 1, "equal files make no commit"


def test_a_pipeline_goes_whole(params: Params, hub: Hub) -> None:
    told = push.run(params, "me/whole", "sft", None, None, private=False)
    files = pushed(hub, "me/whole")
    assert {"model_index.json", "unet/diffusion_pytorch_model.safetensors", "README.md", "policy.json"} <= files.keys()
    assert 'StableDiffusionPipeline.from_pretrained("me/whole")' in told and not hub.private


def test_exports_have_the_card_too(params: Params, tmp_path: Path) -> None:
    told = export.run(params, Wanted("dpo", "kohya", None), tmp_path / "out")
    assert "without a model card" not in told
    assert (tmp_path / "out" / card_file.PICTURE).is_file()
    assert "<lora:dpo:1>" in (tmp_path / "out" / card_file.TEXT).read_text()
    from safetensors import safe_open

    with safe_open(tmp_path / "out/dpo.safetensors", "pt") as opened:
        metadata = opened.metadata()
    assert metadata["diffalign.win_rate.oracle.test"] == "0.8750 [71.0, 98.0] over base"
    assert metadata["diffalign.commit"] and "aligned with simulated preferences" in metadata["modelspec.description"]


def test_refusals_say_what_to_do(params: Params, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="expected OWNER/NAME"):
        push.run(params, "taste", None, None, None, private=False)
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(UserError, match=r"may not write to me/taste: is me you.*HF_TOKEN"):
        push.run(params, "me/taste", None, None, None, private=False)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="doesn't accept the token"):
        push.run(params, "me/taste", None, None, None, private=False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "none")
    with pytest.raises(UserError, match=r"found none\. Make one with the right to write"):
        push.run(params, "me/taste", None, None, None, private=False)
    assert not hub.puts and not hub.repositories


def test_weights_without_a_card_stay_here(params: Params, hub: Hub) -> None:
    card = Path("reports/cards/dpo")
    card.rename("reports/cards/away")
    try:
        with pytest.raises(UserError, match="expected a model card of these weights"):
            push.run(params, "me/taste", "dpo", None, None, private=False)
    finally:
        Path("reports/cards/away").rename(card)
    assert not hub.repositories


PUSH = """
from pathlib import Path
from diffalign.data.hub import upload
print(upload.upload("me/whole", Path("sent"), False, "a model"))
"""


@pytest.mark.slow
def test_a_killed_push_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    """Killed while its third large file is under way; the next sends that one and the rest, and no file twice."""
    (tmp_path / "sent").mkdir()
    for i in range(5):
        (tmp_path / f"sent/{i}.safetensors").write_bytes(bytes([i]) * 1_000_000)
    (tmp_path / "sent/README.md").write_text("---\nlicense: mit\n---\n")
    switches = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    environment = os.environ | switches | {"PYTHONPATH": str(Path(push.__file__).parents[2])}
    hub.stall_put = 3
    process = subprocess.Popen([sys.executable, "-c", PUSH], env=environment, cwd=tmp_path)
    stalled = hub.sent.wait(300)
    process.kill()
    process.wait()
    assert stalled
    hub.stall_put = 0
    hub.resume.set()
    there = set(hub.store)
    assert len(there) == 2 and not hub.repositories["model", "me/whole"]
    subprocess.run([sys.executable, "-c", PUSH], env=environment, cwd=tmp_path, check=True)
    assert len(hub.puts) == 6 and not there.intersection(hub.puts[3:])
    assert len(pushed(hub, "me/whole")) == 6
