"""generate: noise that pairs policies, files that can be trusted, and going on after a kill."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.config.load import parse
from diffalign.config.params import Params
from diffalign.core import files
from diffalign.core.errors import UserError
from diffalign.data.comparisons import table as comparisons
from diffalign.data.pixels import to_uint8
from diffalign.generation import gallery, pipeline
from diffalign.generation.prompts import chosen
from diffalign.rewards import reward as rewards
from stages import evaluate, generate, score, train
from stages.generate import COMPARISONS
from tests.helpers import tiny_rewards
from tests.helpers.world import CAPTIONS, HOSTILE, make_world

POLICIES = {
    "base": {"method": "none", "noise_seed": 0},
    "again": {"method": "none", "noise_seed": 1},
    "other": {"method": "none", "noise_seed": 0, "init": "model2"},
}
ALL = [*CAPTIONS[:4], *HOSTILE]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A project in which the three policies have made images."""
    folder = tmp_path_factory.mktemp("generate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        values = make_world(folder, POLICIES, ALL, generate={"prompts": 100, "seeds": 2, "batch_size": 4})
        for name in POLICIES:
            train.run(values, name)
            generate.run(values, name)
    return folder, values


@pytest.fixture(autouse=True)
def here(world: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world[0])


def manifest(name: str) -> dict[str, Any]:
    return json.loads(Path("images", name, "manifest.json").read_text())


def decoded(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, int)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_prompt_and_seed_has_an_image_and_the_manifest_says_so() -> None:
    about = manifest("base")
    assert (about["schema"], about["policy"], about["noise_seed"]) == (3, "base", 0)
    assert about["sets"] == [{"name": "test", "prompts": len(ALL), "asked": 100, "in_training": 0}]
    assert about["seeds"] == 2
    assert about["sampler"] == {"name": "dpmpp_2m", "spacing": "trailing"}
    assert (about["steps"], about["guidance"], about["resolution"], about["dtype"]) == (2, 4.0, 64, "float32")
    assert {(line["prompt"], line["seed"]) for line in about["images"]} == {(text, s) for text in ALL for s in (0, 1)}
    prompts = {line["prompt_index"]: line["prompt"] for line in about["images"]}
    assert [prompts[i] for i in range(len(ALL))] == sorted(ALL, key=lambda text: hashlib.sha256(text.encode()).digest())
    for line in about["images"]:
        kind = "single" if line["prompt"] in CAPTIONS else None
        assert (line["set"], line["category"]) == ("test", kind)
        data = Path("images/base", line["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == line["sha256"]
        assert decoded(Path("images/base", line["file"])).shape == (64, 64, 3)


def test_files_are_named_by_number_never_by_caption() -> None:
    names = set(snapshot(Path("images/base"))) - {"manifest.json"}
    assert len(names) == 2 * len(ALL)
    assert all(re.fullmatch(r"\d{5}-[01]\.png", name) for name in names)
    assert set(snapshot(Path("images"))) == {f"{p}/{name}" for p in POLICIES for name in {*names, "manifest.json"}}


def test_policies_and_noises_give_other_images_and_nothing_is_left_behind() -> None:
    images = {name: [line["sha256"] for line in manifest(name)["images"]] for name in POLICIES}
    assert not set(images["base"]) & set(images["other"])
    assert not set(images["base"]) & set(images["again"])
    assert list(Path("runs").glob("generate-*")) == []


def test_noise_is_a_function_of_seed_prompt_and_number_alone() -> None:
    first = pipeline.initial_noise(0, "a red circle", 0, (4, 8, 8))
    assert torch.equal(first, pipeline.initial_noise(0, "a red circle", 0, (4, 8, 8)))
    for other in ((1, "a red circle", 0), (0, "a red Circle", 0), (0, "a red circle", 1)):
        assert not torch.equal(first, pipeline.initial_noise(*other, (4, 8, 8)))
    many = torch.stack([pipeline.initial_noise(0, f"p{i}", 0, (4, 8, 8)) for i in range(50)])
    assert float(many.mean()) == pytest.approx(0, abs=4 / many.numel() ** 0.5)
    assert float(many.std()) == pytest.approx(1, abs=0.03)


def test_policies_of_one_noise_seed_start_from_the_same_noise(
    world: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[torch.Tensor]] = {}

    def watch(policy: str) -> Any:
        def sample(output: Any, process: Any, sampler: Any, noise: torch.Tensor, *rest: Any) -> torch.Tensor:
            seen.setdefault(policy, []).append(noise)
            return noise

        return sample

    for name in POLICIES:
        monkeypatch.setattr(pipeline.sampling, "sample", watch(name))
        monkeypatch.setattr(generate, "OUT", Path("elsewhere"))
        generate.run(world[1], name)
    base, again, other = (torch.cat(seen[name]) for name in POLICIES)
    assert torch.equal(base, other)
    assert not torch.equal(base, again)


def test_a_batchs_company_changes_nothing_but_rounding(
    world: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = world[1].model_copy(update={"generate": world[1].generate.model_copy(update={"batch_size": 7})})
    monkeypatch.setattr(generate, "OUT", Path("elsewhere"))
    generate.run(values, "base")
    for line in manifest("base")["images"]:
        one, two = (decoded(Path(folder, "base", line["file"])) for folder in ("images", "elsewhere"))
        assert abs(one - two).max() <= 1


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    world: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = snapshot(Path("images/base"))
    written: list[str] = []
    write = files.write_bytes

    def dies(path: Path, data: bytes) -> None:
        if len(written) == 6:  # in the second batch of four
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, data)

    monkeypatch.setattr(files, "write_bytes", dies)
    with pytest.raises(KeyboardInterrupt):
        generate.run(world[1], "base")
    assert snapshot(Path("images/base")) == whole  # what was published stays until the new one is whole
    (work,) = Path("runs").glob("generate-base-*")
    (work / "out/.00006-0.png.4242.tmp").write_bytes(b"left by a SIGKILL")
    again: list[str] = []

    def counts(path: Path, data: bytes) -> None:
        again.append(path.name)
        write(path, data)

    monkeypatch.setattr(files, "write_bytes", counts)
    generate.run(world[1], "base")
    assert snapshot(Path("images/base")) == whole
    pngs = [name for name in again if name.endswith(".png")]
    assert not set(pngs) & set(written[:4])  # the finished batch isn't made again
    assert len(pngs) == len(whole) - 1 - 4


def test_fewer_prompts_than_asked_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    table = comparisons.read(COMPARISONS)
    assert len(chosen(table, {"test": 100})) == len(ALL)
    assert f"has {len(ALL)} prompts, 100 were asked for" in capsys.readouterr().err
    assert chosen(table, {"test": 2}) == chosen(table, {"test": 100})[:2]


def test_a_split_without_prompts_is_the_users_error() -> None:
    with pytest.raises(UserError, match="no prompts in the validation split"):
        chosen(comparisons.read(COMPARISONS), {"validation": 4})


def test_prompts_of_several_sets(
    world: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of one's own beside the split: it's named, categories come from it, training prompts in it are counted."""
    monkeypatch.setattr(generate, "OUT", Path("mixed"))
    (seen, *_) = comparisons.prompts(comparisons.read(COMPARISONS), "train")
    rows = [("Prompt", "Category"), ('a "fox"', "Animals"), (f"  {seen.upper()} ", "Old"), (CAPTIONS[0], "")]
    files.write_text(Path("prompts/mine.tsv"), "".join("\t".join(row) + "\r\n" for row in rows))
    generate.run(with_settings(world[1], prompts={"test": 1, "prompts/mine.tsv": "all"}, seeds=1), "base")
    about = json.loads(Path("mixed/base/manifest.json").read_text())
    assert about["sets"] == [
        {"name": "test", "prompts": 1, "asked": 1, "in_training": 0},
        {"name": "prompts/mine.tsv", "prompts": 3, "asked": None, "in_training": 1},
    ]
    assert [(line["set"], line["category"], line["prompt"]) for line in about["images"][1:]] == [
        ("prompts/mine.tsv", "Animals", 'a "fox"'),
        ("prompts/mine.tsv", "Old", seen.upper()),
        ("prompts/mine.tsv", "single", CAPTIONS[0]),
    ]
    assert "1 of 3 prompts of prompts/mine.tsv are training prompts, too" in capsys.readouterr().err
    # the noise of an image is a function of its prompt, not of its set or place
    one = {line["prompt"]: line["sha256"] for line in manifest("base")["images"] if line["seed"] == 0}
    assert about["images"][3]["sha256"] == one.get(CAPTIONS[0], about["images"][3]["sha256"])


def test_an_unknown_policy_is_the_users_error(world: tuple[Path, Params]) -> None:
    with pytest.raises(UserError, match=r"generate@nobody: expected one of the policies \['again', 'base', 'other'\]"):
        generate.run(world[1], "nobody")


def test_pixels_and_png() -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 0.5]).view(1, 1, 2, 3).expand(1, 3, 2, 3)
    levels = to_uint8(x)
    assert levels.shape == (1, 2, 3, 3)
    assert levels[0, :, :, 0].ravel().tolist() == [0, 0, 128, 255, 255, 191]
    assert pipeline.png(levels[0]) == pipeline.png(levels[0].copy())


def with_settings(values: Params, **changes: Any) -> Params:
    """The params with other values in `generate`."""
    raw = values.model_dump(mode="json")
    raw["generate"] |= changes
    return parse(raw)


def test_an_override_is_for_its_policy_alone(world: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another sampler, steps and guidance for one policy: the manifest says so; other policies' images stay."""
    euler = {"name": "euler_ancestral", "spacing": "trailing"}
    values = with_settings(world[1], overrides={"again": {"sampler": euler, "steps": 3, "guidance": 1.0}})
    monkeypatch.setattr(generate, "OUT", Path("overridden"))
    for name in ("base", "again"):
        generate.run(values, name)
    assert snapshot(Path("overridden/base")) == snapshot(Path("images/base"))
    about = json.loads(Path("overridden/again/manifest.json").read_text())
    assert (about["sampler"], about["steps"], about["guidance"]) == (euler, 3, 1.0)
    assert not {line["sha256"] for line in about["images"]} & {line["sha256"] for line in manifest("again")["images"]}
    # noise of the steps, too, is a function of the image: another batch size gives the same images
    monkeypatch.setattr(generate, "OUT", Path("rebatched"))
    generate.run(with_settings(values, batch_size=7), "again")
    for line in about["images"]:
        one, two = (decoded(Path(folder, "again", line["file"])) for folder in ("overridden", "rebatched"))
        assert abs(one - two).max() <= 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"steps": 9, "guidance": 7.5}, r"steps: expected 2, found 9; guidance: expected 4.0, found 7.5"),
        ({"sampler": {"name": "ddim", "eta": 0.5, "spacing": "leading"}}, r"sampler: expected .*dpmpp_2m.*found .*0.5"),
    ],
)
def test_images_made_otherwise_than_params_ask_are_not_compared(
    world: tuple[Path, Params],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    expected: str,
) -> None:
    """One policy's images made by hand with other settings: score, evaluate and report refuse them."""
    shutil.copytree(world[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    generate.run(with_settings(world[1], **changes), "again")
    message = rf"images/again wasn't made as params.yaml asks for now: {expected}.*--force generate@again"
    with pytest.raises(UserError, match=message):
        score.run(world[1], "oracle")
    with pytest.raises(UserError, match=message):
        evaluate.run(world[1])


def test_images_of_another_resolution_are_not_compared(world: tuple[Path, Params]) -> None:
    shown = [gallery.read(Path("images", name)) for name in ("base", "again")]
    gallery.check_comparable(shown)
    other = replace(shown[1], about={**shown[1].about, "resolution": 32})
    with pytest.raises(UserError, match="expected one resolution and dtype"):
        gallery.check_comparable([shown[0], other])
    gallery.check_made(shown[0], world[1].sampling("base"))
    with pytest.raises(UserError, match="resolution: expected 64, found 32"):
        gallery.check_made(other, world[1].sampling("again"))


@pytest.mark.parametrize(("part", "what"), [("denoiser", "latents"), ("vae", "pixels"), ("nothing", "latents")])
def test_nothing_that_is_not_finite_is_published(
    world: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch, part: str, what: str
) -> None:
    """A NaN in a weight of the denoiser or the decoder, or in an output alone: named, and no image is written."""
    load = generate.load

    def broken(*arguments: Any) -> Any:
        model = load(*arguments)
        if part == "nothing":
            monkeypatch.setattr(model, "denoise", lambda x_t, t, cond: x_t / 0)
        else:
            network = model.denoiser if part == "denoiser" else model.vae.decoder
            next(network.parameters()).data.view(-1)[0] = float("nan")
        return model

    monkeypatch.setattr(generate, "load", broken)
    monkeypatch.setattr(generate, "OUT", Path("broken"))
    cause = {
        "denoiser": r"So has the weight denoiser\.\S+",
        "vae": r"So has the weight vae\.decoder\.\S+",
        "nothing": r"The weights that were looked at are finite",
    }[part]
    with pytest.raises(UserError, match=rf"^{what} of generated images: expected finite.* in 4 of 4 images.*{cause}"):
        generate.run(world[1], "base")
    assert not Path("broken/base").exists()
    (work,) = Path("runs").glob("generate-base-*")
    assert not list(work.rglob("*.png"))


def test_float_pictures_are_the_images_but_for_rounding(world: tuple[Path, Params]) -> None:
    """Within half a level of 255, in [-1, 1]; gradients reach the noise, those beyond the range too."""
    model = generate.load(world[1], "base")
    how = pipeline.sampling_of(world[1].sampling("base"))
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = ["a red circle", "a cat"]
    levels = pipeline.image_maker(model, model.denoise, 64, how)(prompts, noise, pipeline.no_noise)
    start = noise.clone().requires_grad_()
    found = pipeline.pictures(model, model.denoise, 64, how)(prompts, start, pipeline.no_noise)
    assert found.min() >= -1 and found.max() <= 1
    exact = (found.detach().permute(0, 2, 3, 1) + 1) * 127.5
    assert abs(exact - torch.from_numpy(levels.astype(np.float32))).max() <= 0.5001
    found.sum().backward()
    assert start.grad is not None and start.grad.abs().max() > 0


def test_a_clipped_pixel_keeps_its_gradient() -> None:
    class Decoder:
        def decode(self, x0: torch.Tensor) -> torch.Tensor:
            return 2 * x0

    x0 = torch.tensor([-3.0, 0.25, 3.0], requires_grad=True)
    found = pipeline.picture(Decoder(), x0)  # type: ignore[arg-type]
    found.sum().backward()
    assert found.tolist() == [-1.0, 0.5, 1.0]
    assert x0.grad is not None and x0.grad.tolist() == [2.0, 2.0, 2.0]


def test_the_best_of_n_goes_on_after_a_kill_and_says_what_the_reward_said(
    world: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the oracle, which can't score hostile prompts: of them the first is kept, the image without the rule."""
    values = with_settings(world[1], overrides={"again": {"best_of": {"reward": "oracle", "n": 2}}}, seeds=1)
    monkeypatch.setattr(generate, "OUT", Path("best"))
    written: list[str] = []
    write = files.write_bytes

    def dies(path: Path, data: bytes) -> None:
        written.append(path.name)
        if sum(name.endswith(".png") for name in written) == 6:  # in the second batch of four
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(files, "write_bytes", dies)
    with pytest.raises(KeyboardInterrupt):
        generate.run(values, "again")
    monkeypatch.setattr(files, "write_bytes", write)
    generate.run(values, "again")
    about = json.loads(Path("best/again/manifest.json").read_text())
    assert (about["rules"], about["reward"]) == ({"best_of": {"reward": "oracle", "n": 2}}, "2")
    assert about["forwards"] == 2 * 2 * 2
    for line in about["images"]:
        found, plain = line["rewarded"], decoded(Path("images/again", line["file"]))
        if line["prompt"] in HOSTILE:
            assert found == {"first": None, "kept": None, "at": 0, "missing": 2}
        else:
            assert found["kept"] >= found["first"] and found["missing"] == 0
        same = abs(decoded(Path("best/again", line["file"])) - plain).max() <= 1  # in another batch
        assert bool(same) is (found["at"] == 0)
    assert set(snapshot(Path("best/again"))) == {"manifest.json", *(line["file"] for line in about["images"])}
    said = capsys.readouterr().err
    assert "again: best_of: 8 forwards of the network an image, as many as 2 plain images" in said
    assert "of 4 images, mean" in said and "5 others have no score before or after; 10 attempts couldn't be" in said
    with pytest.raises(UserError, match=r"images/again wasn't made as params.yaml asks.*rules: expected .*best_of"):
        gallery.check_made(gallery.read(Path("images/again")), values.sampling("again"))


def test_optimised_noise_raises_a_learned_reward(world: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the tiny model, by a tiny CLIP: what is kept scores no less, and what is said is the published image's."""
    learned = {"path": str(tiny_rewards.make("learned", Path("clip"))), "batch_size": 8}
    raw = world[1].model_dump(mode="json")
    doodl = {"reward": "learned", "iterations": 2, "lr": 1e6, "momentum": 0.9, "clip": 0.05, "noise": 0.001}
    raw["rewards"] |= {"learned": learned}
    raw["generate"] |= {
        "prompts": {"test": 2},
        "seeds": 1,
        "overrides": {"base": {"optimise": doodl | {"keep": "best", "coupled": None}}},
    }
    monkeypatch.setattr(generate, "OUT", Path("optimised"))
    generate.run(parse(raw), "base")
    about = json.loads(Path("optimised/base/manifest.json").read_text())
    assert about["forwards"] == 7 * 4 and about["reward"].startswith("1-")
    assert all(line["rewarded"]["kept"] >= line["rewarded"]["first"] for line in about["images"])
    assert any(line["rewarded"]["at"] for line in about["images"])
    reward = rewards.load("learned", learned, "cpu")
    for line in about["images"]:
        image = np.array(Image.open(Path("optimised/base", line["file"])))
        score = rewards.score_images(reward, [image], [line["prompt"]])["learned"][0]
        assert score == pytest.approx(line["rewarded"]["kept"], rel=0.005)  # but for 8 bits


def test_a_mix_with_the_base_begins_as_the_base(world: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> None:
    """A power so high that the policy never has a weight: the base's images, bit for bit; else neither's."""
    shown = {name: [line["sha256"] for line in manifest(name)["images"][:4]] for name in ("base", "other")}
    made = {}
    for power in (1e9, 0.5):
        values = with_settings(world[1], overrides={"other": {"mix_base": {"power": power}}}, prompts=2)
        monkeypatch.setattr(generate, "OUT", Path(f"mixed-{power}"))
        generate.run(values, "other")
        about = json.loads(Path(f"mixed-{power}/other/manifest.json").read_text())
        made[power] = [line["sha256"] for line in about["images"]]
        assert about["forwards"] == 2 * 4
    assert made[1e9] == shown["base"]
    assert not set(made[0.5]) & {*shown["base"], *shown["other"]}


def test_the_base_of_a_trained_policys_mix_is_its_init(
    world: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an untrained one it's the base model; both from the real weights, at the second of two steps, w = 1/2."""
    overrides = {name: {"mix_base": {"power": 1.0}} for name in ("other", "trained")}
    raw = with_settings(world[1], overrides={}).model_dump(mode="json")
    dpo = {"method": "dpo", "init": "model2", "noise_seed": 0, "beta": 1, "link": "sigmoid", "safeguard": None}
    raw["policies"]["trained"], raw["generate"]["overrides"] = dpo, overrides
    values, base, other = parse(raw), generate.load(world[1], "base"), generate.load(world[1], "other")
    t = pipeline.sampling_of(values.sampling("other")).sampler.plan(base.process, 2).moves[1][0]
    x, cond = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), base.encode_prompt(["a cat"])
    outputs = [model.denoise(x, torch.tensor([t]), cond) for model in (base, other)]
    for name, expected in (("other", sum(outputs) / 2), ("trained", outputs[1])):
        mixed = generate.mixer(values, name)(other)
        torch.testing.assert_close(mixed(x, torch.tensor([t]), cond), expected)
