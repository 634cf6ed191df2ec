"""The plan against what the real networks, optimizers and files take."""

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffalign.config.load import load
from diffalign.config.params import Params
from diffalign.config.training import Trained
from diffalign.core.errors import UserError
from diffalign.core.files import canonical_json
from diffalign.data.batches.pair_batches import PairBatch
from diffalign.data.comparisons import table as comparisons
from diffalign.data.hub.fetch import PINNED
from diffalign.methods import method as methods
from diffalign.models import family as families
from diffalign.models import rater_tokens
from diffalign.planning import cards, counts, estimates, known_models, plan_text, planner, work
from diffalign.planning.flops import counted
from diffalign.planning.meta_models import skeleton
from diffalign.planning.pairs import COMPARISONS, known_pairs, pairs_of
from diffalign.planning.planner import Machine
from diffalign.planning.work import PlannedSource
from diffalign.reference.reference import live
from diffalign.runtime import timings
from diffalign.training.learner import load_trainable
from stages import ingest, precompute, train
from tests.helpers import specs
from tests.helpers.methods import Offers
from tests.helpers.project import REPO, make_inputs, make_params
from tests.helpers.tiny import make_model
from tests.helpers.tiny_families import make_sd3, make_sdxl

MACHINE = Machine("cpu", None, 1, 1, "fp32", "ddp", False, 1e12)
VECTORS: dict[str, Any] = {"drop": 0.0, "lr": 0.02, "only": False}
LORA = {"rank": 4, "alpha": 8, "targets": None}
LOG_EVERY = 4
BASE = {"base": {"method": "none"}}
POLICIES: dict[str, dict[str, Any]] = {
    "dpo": {"method": "dpo"},
    "lora": {"method": "dpo", "lora": LORA},
    "sft": {"method": "sft"},
    "mapo": {"method": "mapo", "beta": 0.1, "reference": "none"},
    "kto": {"method": "kto"},
    "tokens": {"method": "dpo", "lora": LORA, "rater_tokens": VECTORS},
    "vectors": {"method": "dpo", "rater_tokens": VECTORS | {"only": True}},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A project with comparisons and shards."""
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    make_inputs(folder)
    values = make_params(folder, BASE | POLICIES, runtime={"log_every": LOG_EVERY})
    ingest.run(values)
    precompute.run(values)
    yield values
    os.chdir(before)


@pytest.fixture(scope="module")
def found(project: Params) -> dict[str, planner.Plan]:
    return {item.name: item for item in planner.plans(project, MACHINE)}


def trained_policy(project: Params, name: str) -> Trained:
    """The settings of a trained policy."""
    settings = project.policies[name]
    assert isinstance(settings, Trained)
    return settings


def network(project: Params, name: str) -> nn.Module:
    """The network that a policy trains, as training makes it."""
    denoiser: nn.Module = load_trainable(specs.spec(project, name), torch.device("cpu")).denoiser
    return denoiser.train()


@dataclass(frozen=True)
class OneBatch(PlannedSource):
    """The planner's stand-in for a source, with a real batch."""

    batch: PairBatch | None = None

    def at(self, step: int) -> Iterator[PairBatch]:
        """Yields the batch."""
        assert self.batch
        yield self.batch


def real_loss(policy: Trained, denoiser: Any, pairs: int, log: bool) -> Tensor:
    """The real method's loss on random latents, with the network as its own reference where it's LoRA."""
    lora = policy.adapter == "lora"
    reference = families.load("sd15", "model", ("denoiser",)).denoiser

    def denoise(which: Any) -> Any:
        return lambda x_t, t, cond: which(x_t, t, encoder_hidden_states=cond["hidden"], **families.asked(cond)).sample

    def adapters_off(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        denoiser.disable_adapters()
        output: Tensor = denoise(denoiser)(x_t, t, cond)
        denoiser.enable_adapters()
        return output

    shape = (2 * pairs, 4, 8, 8)
    cond = {"hidden": torch.randn(2 * pairs, 12, 16)}
    if policy.rater_tokens:
        cond["raters"] = torch.arange(pairs).repeat(2) % 3
    ones = torch.ones(pairs)
    batch = PairBatch(torch.randn(shape), torch.zeros(2 * pairs).long(), torch.randn(shape), cond, ones, ones)
    frozen = rater_tokens.without(adapters_off if lora else denoise(reference))
    held = None if policy.reference == "none" else live(frozen)
    method = methods.load(policy, Offers(OneBatch((4, 8, 8), pairs, "cpu", batch=batch)))
    (given,) = method.batches(denoise(denoiser), held, 0)
    return method.loss(denoise(denoiser), held, given, log)[0]


@pytest.mark.parametrize("name", list(POLICIES))
def test_counted_flops_are_those_of_a_real_step(name: str, project: Params, found: dict[str, planner.Plan]) -> None:
    """Two pairs, forward and backward, with real weights; of LOG_EVERY steps one is logged."""
    policy = trained_policy(project, name)
    real = []
    for log in (False, True):
        # PyTorch's own counter leaves out the CPU's fused attention.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            real_loss(policy, network(project, name), 2, log).backward()
        real.append(counter.get_total_flops() / 2)
    every = LOG_EVERY
    assert found[name].flop_per_pair == pytest.approx(((every - 1) * real[0] + real[1]) / every, rel=1e-9)
    assert found[name].flop == found[name].flop_per_pair * policy.steps * policy.batch_size
    assert (real[1] > real[0]) == (name == "sft")  # sft alone looks at more than its loss needs


@pytest.mark.parametrize("name", ["dpo", "lora", "tokens", "vectors"])
def test_bytes_are_those_of_a_real_step(name: str, project: Params, found: dict[str, planner.Plan]) -> None:
    """Weights, gradients and AdamW's state after a step; the reference a second network, or the same."""
    policy, memory = trained_policy(project, name), found[name].memory
    denoiser = network(project, name)
    trained = [p for p in denoiser.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    real_loss(policy, denoiser, 1, False).backward()
    optimizer.step()
    state = [value for kept in optimizer.state.values() for value in kept.values()]
    assert memory.weights == sum(p.nbytes for p in denoiser.parameters())
    assert memory.gradients == sum(p.grad.nbytes for p in trained if p.grad is not None)
    assert memory.optimizer == sum(value.nbytes for value in state)
    assert memory.reference == (0 if policy.lora else pytest.approx(memory.weights, rel=5e-3))  # but for vectors
    assert memory.casts == memory.ema == 0


@pytest.mark.parametrize(("name", "checkpointing"), [("dpo", False), ("dpo", True), ("vectors", False)])
def test_activations_are_what_a_real_graph_keeps(
    name: str, checkpointing: bool, project: Params, found: dict[str, planner.Plan]
) -> None:
    """A micro-batch's, counted by another way: bytes of distinct tensors that autograd packs.

    Attention's fused kernel packs its output, which isn't counted where no trained weight follows it.
    """
    policy = trained_policy(project, name).model_copy(update={"gradient_checkpointing": checkpointing})
    denoiser: Any = network(project, name)
    if checkpointing:
        denoiser.enable_gradient_checkpointing()
    own = {p.data_ptr() for p in denoiser.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = real_loss(policy, denoiser, 4, False)
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del loss
    prepared = work.policy_skeleton(project, "model")
    work.prepare(name, prepared, policy, "sd15")
    found_now = work.of_skeleton(prepared, policy)
    planned = planner.plan_policy(name, policy, LOG_EVERY, found_now, MACHINE).memory.activations
    assert policy.micro_batch_size == 4
    assert planned == pytest.approx(real, rel=0.05 if name == "dpo" else 0.06)
    if name == "vectors":
        assert planned < 0.75 * found["dpo"].memory.activations  # frozen weights need no inputs of theirs
    if checkpointing:
        assert planned < 0.5 * found["dpo"].memory.activations


def test_fused_attention_counts_as_its_products_do() -> None:
    """[2, 4, 6, 8] queries on [2, 4, 10, 8]: 2 * 2 * 4 * 6 * 10 * (8 + 8) forward, and twice that backward."""
    query, key, value = (torch.randn(2, 4, length, 8, requires_grad=True) for length in (6, 10, 10))

    def attend() -> None:
        nn.functional.scaled_dot_product_attention(query, key, value).sum().backward()

    assert counted(attend) == 3 * 15360
    with sdpa_kernel(SDPBackend.MATH):
        assert counted(attend) == 3 * 15360


def test_shards_on_disk(project: Params, found: dict[str, planner.Plan]) -> None:
    """The formula's bytes within 5% of the real files', from the comparisons' own counts."""
    images, prompts, text = plan_text.sizes(COMPARISONS) or (0, 0, 0.0)
    assert images == 80  # 40 rows of two images of their own, ties too
    real = sum(path.stat().st_size for path in Path("data/shards").iterdir() if path.suffix != ".json")
    assert estimates.shard_bytes(images, prompts + 1, (4, 8, 8), [(12, 16)], False, round(text)) == pytest.approx(
        real, rel=0.05
    )
    assert f"for {images} encoded images and {prompts} prompts" in plan_text.shards(project, found["dpo"].counts)


def test_optimizers_by_hand() -> None:
    """A 3 x 5 matrix and 2 biases: AdamW 2 x 17 moments and 2 counts; Adafactor 3 + 5 + 2 numbers."""
    shapes = [(3, 5), (2,)]
    assert estimates.optimizer_bytes(shapes, "adamw") == 4 * (2 * 17 + 2)
    assert estimates.optimizer_bytes(shapes, "adafactor") == 4 * (3 + 5 + 2)
    assert estimates.optimizer_bytes(shapes, "adamw8bit") == 4 * 2 * 17  # small tensors stay in float32
    assert estimates.optimizer_bytes([(64, 64)], "adamw8bit") == 2 * (4096 + 4 * 16)


def test_adafactor_is_as_large_as_it_is() -> None:
    """The one that training has, but for a number or two a tensor."""
    from transformers.optimization import Adafactor

    weights = [nn.Parameter(torch.randn(shape)) for shape in ((6, 5), (4, 3, 2, 2), (7,))]
    optimizer = Adafactor(weights)
    sum((w.square().sum() for w in weights), torch.zeros(())).backward()
    optimizer.step()
    state = [value for kept in optimizer.state.values() for name, value in kept.items() if "avg" in name]
    assert estimates.optimizer_bytes([tuple(w.shape) for w in weights], "adafactor") == sum(
        value.nbytes for value in state
    )


def test_what_a_run_holds_beside() -> None:
    """One 10 x 10 matrix: 400 bytes of weights, bf16 copies 200, a cached reference none."""
    options: dict[str, Any] = {"lora": False, "optimizer": "adamw", "precision": "bf16", "activations": 7}
    held = estimates.memory(100, [(10, 10)], reference="cached", ema=True, **options)
    assert (held.weights, held.casts, held.reference, held.ema, held.activations) == (400, 200, 0, 400, 7)
    assert held.total == 400 + 200 + 400 + (800 + 4) + 400 + 7
    assert estimates.memory(100, [(10, 10)], reference="live", ema=False, **options).reference == 200


@pytest.mark.parametrize(("accumulates", "gradients"), [(False, 100), (True, 400)])
def test_what_a_run_holds_of_it_in_fsdp(accumulates: bool, gradients: int) -> None:
    """A fourth of the same matrix in fp32, the reference too; gradients are in full until a step's last micro-batch."""
    options: dict[str, Any] = {"lora": False, "optimizer": "adamw", "precision": "bf16", "activations": 7}
    options |= {"reference": "live", "ema": False, "shares": 4, "accumulates": accumulates}
    held = estimates.memory(100, [(10, 10)], **options)
    assert (held.weights, held.casts, held.reference, held.gradients) == (100, 0, 100, gradients)
    assert held.optimizer == 804 // 4


@pytest.mark.parametrize(
    ("family", "pixels", "latent", "weights"),
    [
        ("sd15", 512, (4, 64, 64), 859_520_964),
        ("sdxl", 1024, (4, 128, 128), 2_567_463_684),
        ("sd3", 1024, (16, 128, 128), 2_028_328_000),
    ],
)
def test_the_sizes_of_known_models_are_the_published_ones(
    family: str, pixels: int, latent: tuple[int, ...], weights: int
) -> None:
    """Weights as in the hub's files; SD1.5 takes 0.803 TFLOP a forward [FACTS]. No folder of theirs is here."""
    with known_models.folder(family, known_models.FOLDER / family) as folder:
        planned = skeleton(family, folder, folder, pixels)
    assert planned.latent == latent and planned.prompt["hidden"] == (77, 768 if family == "sd15" else 2048)
    assert sum(prod(p.shape) for p in planned.network.parameters()) == weights
    if family == "sd15":
        x = torch.empty(1, *latent, device="meta")
        with torch.no_grad():
            flop = counted(lambda: planned.denoise(x, torch.zeros(1, device="meta"), {}))
        assert flop / 1e12 == pytest.approx(0.803, abs=5e-4)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_known_models_are_those_that_fetch_brings(name: str, tmp_path: Path) -> None:
    """Once they are there, too: their files have more keys, and other ones are other models."""
    place = PINNED[name].folder
    assert place == known_models.FOLDER / name
    assert known_models.identity(name, place, place) == "known"
    for part, config in known_models.KNOWN[name].items():
        file = tmp_path / known_models.file_of(part)
        file.parent.mkdir()
        file.write_text(json.dumps(config | {"_diffusers_version": "0.6.0"}))
    assert known_models.identity(name, tmp_path, tmp_path) == "known"
    denoiser = tmp_path / families.find(name).denoiser_folder / "config.json"
    denoiser.write_text(json.dumps(json.loads(denoiser.read_text()) | {"in_channels": 9}))
    assert known_models.identity(name, tmp_path, tmp_path) != "known"


@pytest.mark.parametrize("file", sorted((REPO / "presets").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_presets_need_no_counting(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their work comes with the package, as tools.known_counts wrote it: nothing is there, nothing is built."""
    monkeypatch.chdir(tmp_path)
    Path("assets").symlink_to(REPO / "assets")  # what comes with the project is there
    monkeypatch.setattr(work, "counted", lambda *_: pytest.fail("a network was built"))
    values = load(file)
    assert not plan_text.missing(values)
    said = plan_text.text(values, planner.other_machine("4090", 1))
    assert "For one RTX 4090, bf16. An estimate: the data sheet's 165 TFLOP/s" in said
    assert ("does not fit" in said) == (file.stem == "sdxl")  # all weights: 32 GB and activations
    assert not Path("runs").exists()


def test_the_shipped_counts_are_todays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the demo, the quickest: where it fails, python -m tools.known_counts --write."""
    monkeypatch.chdir(REPO)
    values = load(REPO / "params.yaml")
    for name in ("dpo", "sft"):
        policy = trained_policy(values, name)
        asked = canonical_json(counts.question(values, policy))
        assert counts.Counts(**counts.shipped()[asked]) == plain(work.counted(values, name, policy))


def plain(found: counts.Counts) -> counts.Counts:
    """The same as it comes back from JSON."""
    return counts.Counts(**json.loads(json.dumps(asdict(found))))


def test_one_gpu_by_hand(found: dict[str, planner.Plan]) -> None:
    """165 TFLOP/s x 0.79 x 35% is 45.6 T a second; 24 GB are 25.8e9 bytes, of which 85% may be counted parts."""
    machine = planner.other_machine("4090", 2)
    assert (machine.rate, machine.precision) == (pytest.approx(0.79 * 165e12), "bf16")
    plan = planner.plan_policy("dpo", found["dpo"].policy, LOG_EVERY, found["dpo"].counts, machine)
    assert plan.pairs_per_second == pytest.approx(2 * 0.35 * 0.79 * 165e12 / plan.flop_per_pair)
    assert planner.other_machine("T4", 1).precision == "fp32"
    zero = dict.fromkeys(vars(plan.memory), 0)
    for total, words in ((21e9, "fits"), (25e9, "tight"), (26e9, "does not fit")):
        memory = replace(plan.memory, **(zero | {"activations": int(total)}))
        assert words in plan_text.fit(replace(plan, memory=memory), machine)
    with pytest.raises(UserError, match=r"--gpu: expected one of a100-40, .*, got '9090'"):
        cards.find("9090")


def test_the_work_of_a_policy_is_counted_once(project: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever changes no work; another rank is counted anew."""
    policy = trained_policy(project, "lora")
    before = counts.of_policy(project, "lora", policy)
    monkeypatch.setattr(work, "counted", lambda *_: pytest.fail("counted again"))
    same = policy.model_copy(update={"lr": 1.0, "steps": 3, "batch_size": 2, "seed": 5, "beta": 7})
    assert counts.of_policy(project, "lora", same) == before
    lora = policy.lora and policy.lora.model_copy(update={"rank": 5})
    with pytest.raises(pytest.fail.Exception, match="counted again"):
        counts.of_policy(project, "lora", policy.model_copy(update={"lora": lora}))


@pytest.mark.parametrize(
    ("make", "file", "key"),
    [
        (make_model, "unet", "in_channels"),
        (make_model, "vae", "block_out_channels"),
        (make_model, "text_encoder", "max_position_embeddings"),
        (make_sdxl, "unet", "addition_time_embed_dim"),
        (make_sd3, "transformer", "joint_attention_dim"),
        (make_sd3, "text_encoder_2", "hidden_size"),
    ],
)
def test_a_config_without_a_key(make: Callable[[Path], Path], file: str, key: str, tmp_path: Path) -> None:
    model, family = make(tmp_path), {make_model: "sd15", make_sdxl: "sdxl", make_sd3: "sd3"}[make]
    skeleton(family, model, model, 64)
    path = model / file / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in config.items() if name != key}))
    with pytest.raises(UserError, match=rf"{file}/config\.json: {key}: expected a value"):
        skeleton(family, model, model, 64)


def test_the_text(project: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block each policy, in words; what is assumed and what is odd says so; before ingest pairs aren't known."""
    said = plan_text.text(project, MACHINE)
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith(tuple(POLICIES))] == list(POLICIES)
    assert "vectors: DPO, nothing but a vector for each of 3 raters, 64 pixels" in said
    assert "tokens: DPO, LoRA of rank 4, a vector for each of 3 raters, 64 pixels" in said
    assert "speeds are 35% of that" in said and "measured now" in said and "odd:" not in said
    pairs = known_pairs(project)
    assert pairs and pairs.exact and f"{64 / pairs.number:.3g} epochs of {pairs.number}" in said  # 8 steps of 8
    answers = comparisons.read(COMPARISONS).filter(pc.field("split") == "train")["rater_id"].to_pylist()
    own = project.policies["dpo"].model_copy(update={"raters": [answers[0]]})
    theirs = pairs_of(project, own, pairs)
    assert theirs and 0 < theirs.number <= answers.count(answers[0]) < pairs.number
    policies = {"dpo": project.policies["dpo"].model_copy(update={"warmup_steps": 9, "batch_size": 1000})}
    said = plan_text.text(project.model_copy(update={"policies": policies}), MACHINE)
    odd = [line for line in said.splitlines() if line.startswith("odd: dpo: ")]
    assert len(odd) == 3 and "warm-up of 9 steps is longer than the run of 8" in odd[0]
    assert f"a batch of 1,000 is larger than the {pairs.number} pairs" in odd[1] and "more than 20" in odd[2]
    for name in ("model", "raw"):
        (tmp_path / name).symlink_to(Path(name).resolve())
    compared = Path("data").resolve()
    monkeypatch.chdir(tmp_path)
    rows = known_pairs(project)
    assert rows and not rows.exact and rows.number == pytest.approx(40 * (1 - 0.05 - 0.05))
    (tmp_path / "data").symlink_to(compared)
    (tmp_path / "raw").unlink()  # comparisons of other data say nothing of these
    assert known_pairs(project) is None
    (tmp_path / "model").unlink()
    lacking = plan_text.missing(project)
    assert len(lacking) == 1 + len(project.policies) and "model.path: expected a model's folder" in lacking[0]


def test_a_measured_rate_is_used_for_the_same_work_only(project: Params) -> None:
    about = recorded(project, "dpo")
    try:
        timings.record_rate("dpo", 123.0, 0.0, 5 * 10**8, about)
        plans = {item.name: item for item in planner.plans(project, MACHINE)}
        assert timings.read() == [] and timings.newest() == {}  # no stage's wall time
    finally:
        timings.FILE.unlink()
    item = plans["dpo"]
    assert [name for name, other in plans.items() if other.measured] == ["dpo"]
    assert item.measured == planner.Measured(123.0, 5 * 10**8)
    assert item.seconds == item.pairs / 123 != item.pairs / item.pairs_per_second
    said = "\n".join(plan_text.block(project, item, MACHINE, None))
    assert "123 pairs/s (measured by an earlier run)" in said and "500 MB measured with all else" in said
    assert "(estimate)" in "\n".join(plan_text.block(project, plans["sft"], MACHINE, None))


def recorded(
    project: Params, name: str, machine: Machine = MACHINE, log_every: int = LOG_EVERY, **changes: Any
) -> dict[str, Any]:
    """What a run's line says of it, as it comes back from JSON."""
    policy = {**project.policies[name].model_dump(mode="json"), "init_fingerprint": "0", **changes}
    noted = {"family": "sd15", "resolution": 64, "policy": policy, "machine": {**vars(machine), "torch": "2"}}
    return noted | {"log_every": log_every}


def test_runs_of_other_work_have_other_keys(project: Params) -> None:
    def key(name: str = "lora", machine: Machine = MACHINE, **changes: Any) -> tuple[Any, ...]:
        return planner.speed_key(**recorded(project, name, machine, **changes))

    def lora(**changes: Any) -> dict[str, Any]:
        return {"lora": {**LORA, **changes}}

    for changes in (
        {"rater_tokens": VECTORS | {"only": True}},
        {"optimizer": "adafactor"},
        {"ema": 0.99},
        {"log_every": 7},
        lora(targets=["to_q"]),
        lora(rank=9),
    ):
        assert key(**changes) != key()
    assert key(machine=replace(MACHINE, parallel="fsdp")) != key()
    assert key(**lora(targets=["to_k", "to_q", "to_v", "to_out.0"])) != key("dpo")
    assert key(**lora(targets=list(families.find("sd15").lora_targets))) == key(**lora(targets=None))
    assert key(ema=0.9) == key(ema=0.99) and key(beta=1.0, seed=5) == key() and key(**lora(alpha=1)) == key()


def test_training_notes_its_rate(project: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage leaves what it took in runs/timings.jsonl, nothing of it in its outs, and the next plan uses it."""
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setattr("sys.stderr", io.StringIO())
    train.run(project, "lora")
    (line,) = timings.rates()
    assert line["rate"] == "lora" and line["pairs_per_second"] > 0
    assert 0 < line["waited"] < 1  # on a CPU batches are made when they are asked for
    machine = replace(MACHINE, threads=line["about"]["machine"]["threads"])
    measured = {item.name: item.measured for item in planner.plans(project, machine)}
    assert measured == dict.fromkeys(POLICIES) | {
        "lora": planner.Measured(line["pairs_per_second"], line["peak_bytes"])
    }
    assert 1e8 < line["peak_bytes"] < 1e11  # PyTorch alone takes as much; kibibytes would be below
    assert "pairs_per_second" not in Path("models/policies/lora/policy.json").read_text()


@pytest.mark.slow
def test_the_assumed_rate_is_within_a_factor_of_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's model, its default batch, on this machine, planned and then trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    make_inputs(tmp_path, rows=60)
    demo = str(REPO / "assets/tiny-sd")
    policy = {"method": "dpo", "init": demo, "steps": 9, "batch_size": 32, "micro_batch_size": 32}
    values = make_params(
        tmp_path,
        {"base": {"method": "none", "init": demo}, "dpo": policy},
        model={"path": demo},
        runtime={"log_every": 5},
    )
    ingest.run(values)
    precompute.run(values)
    machine = planner.this_machine()
    (before,) = planner.plans(values, machine)
    assert before.measured is None
    train.run(values, "dpo")
    (after,) = planner.plans(values, machine)
    assert after.measured
    assert 1 / 3 < after.pairs_per_second / after.measured.pairs_per_second < 3


def test_rules_of_sampling_are_planned(tmp_path: Path) -> None:
    """4 prompts, 2 steps under guidance, the best of 5: 20 forwards each, of 5 TFLOP at a part of 1 TFLOP/s."""
    overrides = {"base": {"best_of": {"reward": "oracle", "n": 5}}}
    params = make_params(tmp_path, BASE, generate={"overrides": overrides})
    (line,) = plan_text.rules(params, 5e12, MACHINE)
    seconds = 4 * 20 * 5e12 / 1e12 / estimates.UTILISATION
    assert line == (
        "base: images by best_of, 20 forwards each, 5 times as many as plain; 4 images in float32, "
        f"{plan_text.duration(seconds / 3600)}"
    )
    assert plan_text.text(params, MACHINE).startswith("No policy is trained.\nbase: images by best_of, 20 forwards")
    assert not list(plan_text.rules(make_params(tmp_path, BASE), 5e12, MACHINE))


ROUND = {
    "policy": "base",
    "prompts": 10,
    "images_per_prompt": 4,
    "label": "oracle",
    "least_votes": None,
    "temperature": 0.1,
    "rule": "all_pairs",
    "with_base": True,
    "with_rounds": [],
    "reference": "model",
    "seed": 0,
}


def test_rounds_are_planned(project: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 prompts of 4 images: 6 labels each by a reward, 1 of best and worst; 2 steps under guidance, 4 forwards."""
    votes = {"label": "people", "temperature": None, "least_votes": 25, "with_base": False}
    later = ROUND | votes | {"policy": "r2", "with_rounds": ["r2"]}
    rounds = {"r1": ROUND, "r2": ROUND | {"rule": "best_worst", "temperature": None}, "r3": later}
    policies = BASE | {name: {"method": "dpo", "init": f"data/rounds/{name}"} for name in rounds}
    params = make_params(tmp_path, policies, rounds=rounds)
    hours = plan_text.duration(40 * 4 * 5e12 / 1e12 / estimates.UTILISATION / 3600)
    assert list(plan_text.of_rounds(params, 5e12, MACHINE)) == [
        f"round r1: 40 images of base for 10 training prompts, 60 labels by raters who follow oracle; sampling {hours}",
        f"round r2: 40 images of base for 10 training prompts, 10 labels by oracle; sampling {hours}",
        "round r3: 40 images of r2 for 10 training prompts, 60 questions for people, of whom 25 answers are waited "
        f"for; sampling {hours}",
    ]
    raters = known_pairs(project)
    assert raters is not None
    found = {name: pairs_of(params, params.policies[name], raters) for name in rounds}
    assert [(one.number, one.exact) for one in found.values()] == [
        (60 + raters.number, False),
        (10 + raters.number, False),
        (25 + 10, False),
    ]
    compared = Path("data/comparisons").resolve()
    monkeypatch.chdir(tmp_path)
    Path("data/rounds/r3").mkdir(parents=True)
    Path("data/rounds/r3/comparisons").symlink_to(compared)
    there = pairs_of(params, params.policies["r3"], None)
    assert there is not None and (there.number, there.exact) == (raters.number, True)
    lacking = "\n".join(plan_text.missing(params))
    assert "rounds.r1.reference: expected a model's folder or a LoRA file at model" in lacking


def test_a_policys_own_pictures_are_counted(project: Params) -> None:
    """Four steps of a rollout; two noise levels by the old policy, the reference and, with gradients, the policy."""
    values = make_params(Path.cwd(), BASE | {"nft": {"method": "nft"}})
    (plan,) = planner.plans(values, MACHINE)
    row = counts.asked_for(values, "nft", trained_policy(values, "nft"))
    assert 2.7 < row.usual / row.forward < 3.3
    assert plan.flop_per_pair == 8 * row.forward + 2 * row.usual + row.decode
    text = plan_text.text(values, MACHINE)
    assert "8 steps of 8 pictures: 64 pictures; 8 rollouts, 10 forwards a picture, 2 with gradients" in text
