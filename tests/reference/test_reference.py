"""The reference's kept errors: the stage, what training makes of them, and when it refuses them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from accelerate import Accelerator

from diffalign.config.load import load
from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.core.files import hash_folder, sha256_file
from diffalign.data.batches.pair_batches import PairSource, Place
from diffalign.methods import method as methods
from diffalign.models import family as families
from diffalign.models.sd15 import SD15
from diffalign.reference import cache as cached
from diffalign.reference import worker as measuring
from diffalign.reference.reference import check_margins
from diffalign.training.dataset import Sources
from diffalign.training.learner import Learner, build, live_reference
from diffalign.training.loop import check_reference
from diffalign.training.spec import Spec
from stages import ingest, precompute, reference, train
from tests.helpers import specs
from tests.helpers.project import REPO, make_inputs, make_params
from tests.helpers.specs import train_here

CACHED = {"reference": "cached", "steps": 12}
"""12 steps of 8 pairs are three epochs and more of the train split's pairs."""
POLICIES: dict[str, Any] = {
    "base": {"method": "none"},
    "dpo": {"method": "dpo", "beta": 2000, **CACHED},
    "hinge": {"method": "dpo", "beta": 500, "link": "hinge", **CACHED},
    "ipo": {"method": "dpo", "beta": 500, "link": "ipo", **CACHED},
    "safeguard": {"method": "dpo", "beta": 500, "safeguard": 0.9, **CACHED},
    "swapped": {"method": "dpo", "beta": 2000, "swap_labels": True, **CACHED},
    "lora": {"method": "dpo", "beta": 2000, "lora": {"rank": 8, "alpha": 8, "targets": None}, **CACHED},
    "mapo": {"method": "mapo", "beta": 0.1, **CACHED},
    "sft": {"method": "sft", **CACHED},
}
DRAWS = 2
OUT = Path("data/reference")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with shards and the reference's errors; the tests of this file work in it."""
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    make_inputs(folder)
    values = settings(folder)
    ingest.run(values)
    precompute.run(values)
    reference.run(values)
    yield folder
    os.chdir(before)


def settings(folder: Path, policies: dict[str, Any] = POLICIES, **changes: Any) -> Params:
    how = {"draws": DRAWS, "prompt_drop": 0.3, "flip": "independent", "timesteps": [0.2, 0.9], **changes}
    shared = {key: how[key] for key in ("prompt_drop", "flip", "timesteps")}
    policies = {name: p if p["method"] == "none" else {**shared, **p} for name, p in policies.items()}
    return make_params(folder, policies, reference=how, precompute={"flips": True})


def spec(policy: str, **changes: Any) -> Spec:
    """What the train stage gives a worker."""
    return specs.spec(load(), policy, **changes)


def opened(run: Spec, learner: Learner) -> PairSource:
    """The pairs that a run trains on."""
    return Sources(run, learner).source(PairSource)


def measurement(folder: Path, **changes: Any) -> measuring.Spec:
    values = settings(folder, **changes)
    return measuring.Spec(
        family="sd15",
        model="model",
        settings=values.reference,
        pairs=values.pairs,
        comparisons="data/comparisons",
        shards="data/shards",
        device="cpu",
        precision="fp32",
        compiled=False,
        part=8,
    )


def moved(learner: Learner) -> Learner:
    """The learner with a policy that is no longer its reference, always the same."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in learner.trainable.values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=rng)
    return learner


def test_the_stage_writes_what_a_plain_loop_computes(project: Path) -> None:
    """Every error by itself, a pair a forward, from the stage's own batches of one."""
    ours = measurement(project)
    model = families.load("sd15", "model", ("denoiser",))
    source = measuring.make_source(ours, model, torch.device("cpu"))
    errors = cached.read(OUT, [pair.pair_id for pair in source.pairs])
    assert errors.shape == (len(source.pairs), DRAWS, 2)
    assert errors.dtype == np.float32
    for n, k in [(0, 0), (0, 1), (7, 1), (len(source.pairs) - 1, 0)]:
        batch = source.batch([Place(n, epoch=k)])
        with torch.no_grad():
            out = model.denoise(batch.x_t, batch.t, batch.cond)
        expected = (out - batch.target).square().mean(dim=(1, 2, 3)).numpy()
        np.testing.assert_allclose(errors[n, k], expected, rtol=1e-5)
    assert len(np.unique(errors)) == errors.size, "every draw is another"


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "base"])
def test_cached_is_live_on_the_same_draws(project: Path, policy: str) -> None:
    """Loss, logs and gradients over three epochs, with a policy that has moved away from its reference."""
    found = spec(policy)
    learner = moved(build(found, Accelerator(cpu=True)))
    source = opened(found, learner)
    method = methods.load(found.policy, Sources(found, learner))
    networks = live_reference(found, learner.model, learner.denoiser, learner.parallel)
    epochs = set()
    for step in (0, 3, 7, 11):
        epochs.add(step * source.batch_size // len(source.pairs))
        results = []
        for which in (learner.reference, networks):
            (batch, *_) = method.batches(learner.model.denoise, which, step)
            total, logs = method.loss(learner.model.denoise, which, batch, log=True)
            gradients = torch.autograd.grad(total, list(learner.trainable.values()))
            results.append((total, logs, gradients))
        (one, one_logs, one_gradients), (other, other_logs, other_gradients) = results
        assert one.item() == pytest.approx(other.item(), rel=1e-6)
        assert one_logs.keys() == other_logs.keys() != set()
        for name, value in one_logs.items():
            assert value.item() == pytest.approx(other_logs[name].item(), rel=1e-5, abs=1e-6), name
        largest = max(g.abs().max() for g in other_gradients)
        for a, b in zip(one_gradients, other_gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * largest.item())
    assert len(epochs) > DRAWS, "one file covers more epochs than it has draws"


def test_no_network_and_no_forward_of_a_reference(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the policy is loaded, and every forward of any UNet is one of the policy's."""
    from diffusers import UNet2DConditionModel

    loaded: list[int] = []
    forwards: list[bool] = []
    load, forward = SD15.load_denoiser, UNet2DConditionModel.forward

    def counted(self: UNet2DConditionModel, *args: Any, **kwargs: Any) -> Any:
        forwards.append(torch.is_grad_enabled())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(SD15, "load_denoiser", lambda *a: (loaded.append(1), load(*a))[1])
    monkeypatch.setattr(UNet2DConditionModel, "forward", counted)
    seen = {}
    for kind in ("live", "cached"):
        loaded.clear(), forwards.clear()
        found = spec("dpo", reference=kind)
        learner = build(found, Accelerator(cpu=True))
        method = methods.load(found.policy, Sources(found, learner))
        for batch in method.batches(learner.model.denoise, learner.reference, 0):
            method.loss(learner.model.denoise, learner.reference, batch, log=True)
        seen[kind] = (len(loaded), list(forwards))
    assert seen["live"] == (2, [True, False] * 2)
    assert seen["cached"] == (1, [True] * 2)


def test_each_image_keeps_its_draw_where_labels_are_swapped(project: Path) -> None:
    plain, swapped = (opened(found, build(found, Accelerator(cpu=True))) for found in (spec("dpo"), spec("swapped")))
    places = [Place(index, epoch) for index in range(6) for epoch in range(2)]
    one, other = plain.batch(places), swapped.batch(places)
    count = len(places)
    assert torch.equal(one.x_t, torch.cat([other.x_t[count:], other.x_t[:count]]))
    assert torch.equal(torch.stack(one.error_ref), torch.stack(other.error_ref[::-1]))
    assert not torch.equal(*one.error_ref)


def test_epochs_take_the_draws_in_turn(project: Path) -> None:
    """Pair 3 in epochs 0, 1, 2, 3 with K = 2: draws 0, 1, 0, 1; not the order's seed nor the batch changes them."""
    found = spec("dpo")
    source = opened(found, build(found, Accelerator(cpu=True)))
    batch = source.batch([Place(3, epoch, step=epoch + 5, slot=epoch) for epoch in range(4)])
    for tensor in (batch.x_t[:4], batch.t[:4], batch.error_ref[0]):
        assert torch.equal(tensor[:2], tensor[2:])
        assert not torch.equal(tensor[0], tensor[1])
    alone = replace(source, seed=9, batch_size=2).batch([Place(3, epoch=1)])
    assert torch.equal(alone.x_t[0], batch.x_t[1])
    steps = [found.policy.batch_size * step // len(source.pairs) for step in range(found.policy.steps)]
    assert max(steps) >= DRAWS


def test_no_draws_a_manifest_that_says_so(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = settings(project, {"base": {"method": "none"}}, draws=0)
    monkeypatch.chdir(tmp_path)
    reference.run(values)
    assert cached.read_manifest(OUT) == {"schema": 1, "draws": 0, "checksum": cached.read_manifest(OUT)["checksum"]}
    assert [path.name for path in OUT.iterdir()] == ["manifest.json"]


def stage(processes: int = 1) -> subprocess.Popen[bytes]:
    """The stage in a process of its own, in small parts."""
    code = (
        "from stages import reference; from diffalign.reference import worker as measuring;"
        "from diffalign.config.load import load;"
        "measuring.PART = 4; reference.run(load())"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO), "DIFFALIGN_PROCESSES": str(processes)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)


def test_killed_and_resumed_is_uninterrupted_bit_for_bit(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL after the first parts; the second attempt computes the rest only."""
    monkeypatch.setattr(measuring, "PART", 4)
    values = settings(project)
    before = sha256_file(OUT / cached.ERRORS)
    process = stage()
    deadline = time.monotonic() + 120
    while not list(Path("runs").glob("reference-*/part-*")):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = len(list(Path("runs").glob("reference-*/part-*")))
    (OUT / cached.ERRORS).unlink()
    reference.run(values)
    left = len(measuring.training_pairs(measurement(project))) * DRAWS - 4 * done
    assert f"reference: {left}/{left} " in capfd.readouterr().err, "finished parts aren't computed again"
    assert sha256_file(OUT / cached.ERRORS) == before
    assert not list(Path("runs").glob("reference-*"))


def test_ranks_share_the_work_whoever_is_first(project: Path, tmp_path: Path) -> None:
    """The second rank finishes before the first looks: no part is left out, and the errors are one process's."""
    ours = measurement(project)
    for rank in (1, 0):
        measuring.run(ours, tmp_path, rank, world=2)
    pairs = measuring.training_pairs(ours)
    kept = cached.read(OUT, [pair.pair_id for pair in pairs])
    np.testing.assert_array_equal(measuring.collect(ours, tmp_path, len(pairs)), kept)


@pytest.mark.slow
def test_two_processes_measure_what_one_does(project: Path) -> None:
    settings(project)
    before = sha256_file(OUT / cached.ERRORS)
    (OUT / cached.ERRORS).unlink()
    process = stage(processes=2)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr.decode()
    assert "reference 2/2: " in stderr.decode()
    assert sha256_file(OUT / cached.ERRORS) == before


def test_training_refuses_errors_of_something_else(project: Path) -> None:
    """Another base, other draws, another rule, another precision: each is named."""
    values = settings(project)

    def check(values: Params, precision: str = "fp32", compiled: bool = False) -> None:
        weights = families.denoiser_weights("reference.init", values.model.family, values.reference.init)
        train.check_reference(values, hash_folder(weights), precision, compiled)

    check(values)
    with pytest.raises(UserError, match=r"precision: expected 'bf16', they have 'fp32'(.|\n)*DIFFALIGN_PRECISION"):
        check(values, "bf16")
    with pytest.raises(UserError, match=r"compiled: expected True, they have False(.|\n)*DIFFALIGN_COMPILE"):
        check(values, compiled=True)
    with pytest.raises(UserError, match="seed: expected 5, they have 0"):
        check(settings(project, seed=5))
    other = values.model_copy(update={"pairs": values.pairs.model_copy(update={"rule": "majority"})})
    with pytest.raises(UserError, match=r"pairs: expected \{'rule': 'majority'"):
        check(other)
    weighted = values.model_copy(update={"pairs": values.pairs.model_copy(update={"weights": ["prompt"]})})
    check(weighted)  # weights are training's: the errors are the same
    config = Path("model/unet/config.json")
    text = config.read_text()
    config.write_text(text + "\n")
    try:
        with pytest.raises(UserError, match=r"init: expected '[0-9a-f]{64}', they have"):
            check(values)
    finally:
        config.write_text(text)


def tampered(factor: float) -> bytes:
    """Changes the kept winners' errors by a factor, every checksum right; returns the file as it was."""
    path, manifest = OUT / cached.ERRORS, cached.read_manifest(OUT)
    before = path.read_bytes()
    tensors = safetensors.numpy.load(before)
    tensors["errors"][:, :, 0] *= factor
    path.write_bytes(safetensors.numpy.save(tensors))
    manifest["errors"]["sha256"] = sha256_file(path)
    cached.write_manifest(OUT, {k: v for k, v in manifest.items() if k not in ("schema", "checksum")})
    return before


def restored(before: bytes) -> None:
    manifest = cached.read_manifest(OUT)
    (OUT / cached.ERRORS).write_bytes(before)
    manifest["errors"]["sha256"] = sha256_file(OUT / cached.ERRORS)
    cached.write_manifest(OUT, {k: v for k, v in manifest.items() if k not in ("schema", "checksum")})


@pytest.mark.parametrize("policy", ["dpo", "lora", "swapped"])
@pytest.mark.parametrize("factor", [1.0, 1.001, float("nan")])
def test_recomputed_margins_must_agree(
    project: Path, policy: str, factor: float, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file with every checksum right, its winners' errors off by a thousandth: only the margins tell."""
    found = spec(policy)
    before = tampered(factor)
    try:
        # Resuming, the policy has moved: the live reference is its init all the same.
        learner = moved(build(found, Accelerator(cpu=True)))
        source = opened(found, learner)
        if factor == 1:
            check_reference(found, learner, source)
            assert "64 kept margins or more agree with the live reference's" in capfd.readouterr().err
        else:
            with pytest.raises(
                UserError, match=r"64 or more of the reference's kept margins(.|\n)*the largest difference is"
            ):
                check_reference(found, learner, source)
    finally:
        restored(before)


def test_margins_agree_to_the_last_digits(project: Path) -> None:
    found = spec("dpo")
    learner = build(found, Accelerator(cpu=True))
    source = opened(found, learner)
    reference_ = live_reference(found, learner.model, learner.denoiser, learner.parallel)
    assert check_margins(source, reference_, learner.accelerator.autocast, "fp32") < 1e-6


def test_margins_of_another_precision_are_further_off(project: Path, tmp_path: Path) -> None:
    """Errors kept in bf16 are exact for a training in bf16, in the same shape; errors kept in fp32 aren't."""
    found, half = spec("dpo"), measurement(project).model_copy(update={"precision": "bf16"})
    learner = build(found, Accelerator(cpu=True))
    source = opened(found, learner)
    network = live_reference(found, learner.model, learner.denoiser, learner.parallel)
    measuring.run(half, tmp_path)
    kept = replace(source, errors_ref=measuring.collect(half, tmp_path, len(source.pairs)))
    same, other = (check_margins(each, network, lambda: measuring.autocast(half), "bf16") for each in (kept, source))
    assert same < 1e-6 < 1e-5 < other


def test_damaged_and_foreign_files_are_refused(project: Path, tmp_path: Path) -> None:
    ids = [f"{n}" for n in range(5)]
    errors = np.arange(20, dtype=np.float32).reshape(5, 2, 2)
    cached.write(tmp_path, {"format": cached.FORMAT}, ids, errors)
    np.testing.assert_array_equal(cached.read(tmp_path, ["3", "0"]), errors[[3, 0]])
    with pytest.raises(UserError, match=r"errors of all 2 pairs, 1 aren't there, 7 for one"):
        cached.read(tmp_path, ["3", "7"])
    data = bytearray((tmp_path / cached.ERRORS).read_bytes())
    data[-1] ^= 1
    (tmp_path / cached.ERRORS).write_bytes(data)
    with pytest.raises(UserError, match="its SHA-256 isn't the manifest's"):
        cached.read(tmp_path, ids)
    text = (tmp_path / cached.MANIFEST).read_text()
    (tmp_path / cached.MANIFEST).write_text(text.replace('"draws": 2', '"draws": 3'))
    with pytest.raises(UserError, match="doesn't match its checksum"):
        cached.read_manifest(tmp_path)
    with pytest.raises(UserError, match="is missing"):
        cached.read_manifest(tmp_path / "nowhere")


def test_errors_that_are_no_numbers_are_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no numbers or infinite, computed in fp32"):
        measuring.save_part(tmp_path / "part", np.array([[1, np.nan]], np.float32), measurement(project))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("timesteps", [0.0, 1.0], "timesteps: expected (0.2, 0.9), reference.timesteps, since"),
        (
            "prompt_drop",
            0.1,
            "prompt_drop: expected 0.3, reference.prompt_drop, since its reference is cached, got 0.1",
        ),
        ("init", "model2", "init: expected 'model', reference.init, since"),
        ("flip", "none", "flip: expected 'independent', reference.flip"),
        ("timestep_density", "logit_normal", "timestep_density: expected 'uniform', reference.timestep_density"),
        ("stratified", True, "stratified: expected false, since its reference is cached"),
    ],
)
def test_a_policy_with_other_draws_is_refused(tmp_path: Path, key: str, value: object, expected: str) -> None:
    with pytest.raises(UserError) as error:
        settings(tmp_path, {"base": POLICIES["base"], "dpo": {**POLICIES["dpo"], key: value}})
    assert f"policies.dpo.{expected}" in str(error.value)
    settings(tmp_path, {"base": POLICIES["base"], "dpo": {**POLICIES["dpo"], "reference": "live", key: value}})


def test_cached_needs_draws(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"policies\.dpo\.reference: expected live or none, since reference\.draws is 0"
    ):
        settings(tmp_path, draws=0)
    with pytest.raises(UserError, match=r"reference\.flip: expected none, since precompute\.flips is false"):
        make_params(tmp_path, {"base": POLICIES["base"]}, reference={"draws": 1, "flip": "pair"})


def curve(policy: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in Path(f"curves/{policy}.jsonl").read_text().splitlines()]


def test_a_sweep_shares_one_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two betas through the whole stage from one file, which nothing writes; both start at ln 2."""
    values = settings(
        project, {"base": POLICIES["base"], **{f"b{b}": {**POLICIES["dpo"], "beta": b} for b in (500, 4000)}}
    )
    before = {path: path.stat().st_mtime_ns for path in OUT.iterdir()}
    for policy in ("b500", "b4000"):
        train_here(values, policy, monkeypatch)
        assert curve(policy)[0]["loss"] == pytest.approx(0.693147, rel=1e-4)
        assert curve(policy)[0]["winner_change"] == pytest.approx(0, abs=1e-6)
        assert abs(curve(policy)[-1]["winner_change"]) > 1e-5, "the policy has left its reference"
    assert {path: path.stat().st_mtime_ns for path in OUT.iterdir()} == before
    settings(project)
