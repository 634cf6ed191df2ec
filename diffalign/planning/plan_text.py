"""The plan in words: each policy's work, time, memory and epochs, what will be on the disk, and what looks odd."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffalign.config.methods import sft
from diffalign.config.params import Params
from diffalign.config.rollout import Rolled
from diffalign.config.training import Trained
from diffalign.data import odd
from diffalign.data.comparisons import table as comparisons
from diffalign.generation.gallery import forwards
from diffalign.models import init_files
from diffalign.planning import counts, estimates, known_models, raters, rollouts, rounds
from diffalign.planning.pairs import COMPARISONS, Pairs, known_pairs, pairs_of
from diffalign.planning.planner import Machine, Plan, plans

FULL = 0.85
"""Share of a GPU's memory that the counted parts may take: buffers, fragments and the driver take the rest."""
PARTS = {
    "weights": "weights",
    "casts": "bf16 copies of them",
    "reference": "the reference",
    "gradients": "gradients",
    "optimizer": "the optimizer",
    "ema": "the moving average",
    "activations": "activations",
    "old": "the weights before",
    "vae": "the VAE",
    "rewards": "reward models",
    "trajectories": "the rollout's latents",
}
"""What the parts of `estimates.Memory` are called."""
ASSUMED = (
    "Activations are counted from the network's graph. In no figure are temporary buffers; the VAE and the text "
    "encoders, which make a probe's pictures (0.8 GB for SD 1.5, 3.6 GB for XL); the graph of a reward "
    "that is differentiated and isn't a CLIP; encoding, judging, launching."
)


def text(params: Params, machine: Machine) -> str:
    """Returns the plan as text."""
    found = plans(params, machine)
    if not found:
        return "\n".join(["No policy is trained.", *rules(params, None, machine)])
    pairs = known_pairs(params)
    lines = [f"For {title(machine)}. {rates(machine)}", ""]
    for item in found:
        lines += [*block(params, item, machine, pairs_of(params, item.policy, pairs)), ""]
    forward = found[0].counts.forward
    if told := [*of_rounds(params, forward, machine), *rules(params, forward, machine)]:
        lines += [*told, ""]
    lines += [disk(params, found), "", ASSUMED]
    strange = [line for item in found for line in oddities(item, pairs_of(params, item.policy, pairs), params)]
    return "\n".join([*lines, *([""] if strange else []), *strange])


def title(machine: Machine) -> str:
    """Returns the machine in words."""
    if machine.device == "cpu":
        return f"this CPU, {machine.processes} process(es) of {machine.threads} thread(s), {machine.precision}"
    number = f"{machine.processes} x " if machine.processes > 1 else "one "
    return f"{number}{machine.gpu}, {machine.precision}"


def rates(machine: Machine) -> str:
    """Returns where the speeds come from."""
    share = f"{estimates.UTILISATION:.0%}"
    if machine.card is None:
        return (
            f"Matrix products reach {si(machine.rate)}FLOP/s, measured now; speeds are {share} of that, or what an "
            "earlier run like it measured (runs/timings.jsonl)."
        )
    card = machine.card
    what = "dense bf16" if card.bf16 else "float32: it has no bf16"
    return (
        f"An estimate: the data sheet's {si(card.peak)}FLOP/s ({what}) x {machine.rate / card.peak:.2f}, which a "
        f"product of matrices reached on an H200, x {share}. On that H200 training Stable Diffusion 1.5 reached 43% of "
        "the product compiled, 29% not (docs/speed.md); no other GPU was measured."
    )


def block(params: Params, item: Plan, machine: Machine, pairs: Pairs | None) -> Iterator[str]:
    """Yields a policy's lines."""
    policy, hours = item.policy, item.seconds / 3600
    yield f"{item.name}: {policy.title}, {trained(params, policy)}, {params.precompute.resolution} pixels"
    one, many = ("image", "images") if curates(policy) else ("pair", "pairs")
    if isinstance(policy, Rolled):
        one, many = "picture", "pictures"
    yield f"  work    {policy.steps:,} steps of {policy.batch_size:,} {many}: {item.pairs:,} {many}{seen(item, pairs)}"
    if isinstance(policy, Rolled):
        yield f"          {rollouts.told(policy, item.counts)}"
    source = "measured by an earlier run" if item.measured else "estimate"
    speed = f"{(item.measured or item).pairs_per_second:.3g} {many}/s ({source}), {si(item.flop_per_pair)}FLOP a {one}"
    yield f"  time    {duration(hours)} of training: {speed}; {probes(params, item, machine)}"
    yield f"  memory  {fit(item, machine)}"
    parts = [(PARTS[name], size) for name, size in vars(item.memory).items() if size]
    yield f"          {', '.join(f'{name} {si(size)}B' for name, size in parts)}"


def trained(params: Params, policy: Trained) -> str:
    """Returns in words what of a policy is trained."""
    kind = "all weights" if policy.lora is None else f"LoRA of rank {policy.lora.rank}"
    if policy.rater_tokens is None:
        return kind
    known = raters.known(params, policy)
    number = f"{len(known)} raters" if known else "its raters, who aren't known yet: one is counted"
    vectors = f"a vector for each of {number}"
    return f"nothing but {vectors}" if policy.rater_tokens.only else f"{kind}, {vectors}"


def seen(item: Plan, pairs: Pairs | None) -> str:
    """Returns how often training sees each pair; of a policy that makes its pictures, how often it rolls out."""
    if isinstance(item.policy, Rolled):
        number = math.ceil(item.policy.steps / item.policy.rollout.updates)
        plain, swept, trained = item.policy.forwards()
        learned = swept + trained
        return f"; {number:,} rollouts, {plain + learned:.3g} forwards a picture, {learned:.3g} with gradients"
    if curates(item.policy):
        return " of those that curate keeps"
    return f"; {pairs.epochs(item.pairs)}" if pairs else "; epochs: known after ingest"


def curates(policy: Trained) -> bool:
    """Tells whether a policy trains on images that it chooses when it starts, not on pairs."""
    return isinstance(policy, sft.Settings) and policy.curate is not None


def fit(item: Plan, machine: Machine) -> str:
    """Returns a policy's memory on one device beside what the device has."""
    total = item.memory.total
    measured = f", {si(item.measured.peak)}B measured with all else" if item.measured and item.measured.peak else ""
    if machine.card is None:
        return f"{si(total)}B on one device{measured}"
    has = machine.card.memory
    room = f"{si(total)}B of {has / 2**30:.0f} GB ({si(has)}B)"
    if total <= FULL * has:
        return f"{room}: fits"
    advice = "lower micro_batch_size (the result is the same), or train LoRA, or set gradient_checkpointing: true"
    return f"{room}: {'tight' if total <= has else 'does not fit'}; {advice}"


def probes(params: Params, item: Plan, machine: Machine) -> str:
    """Returns the time of a policy's probes and of its images at the end."""
    probe, policy, forward = params.probe, item.policy, item.counts.forward
    speed = machine.rate * estimates.UTILISATION * machine.processes
    parts = []
    if probe.every:
        number = math.ceil(policy.steps / probe.every)
        held_out = probe.pairs * probe.draws * 2 * (number * (2 if policy.reference == "live" else 1) + 1)
        pictures = number * probe.images * probe.image_steps * 2
        shown = f" with {probe.images} pictures each" if probe.images else ""
        parts.append(f"{number} probes{shown}, {duration((held_out + pictures) * forward / speed / 3600)}")
    if plain_rate(machine):
        parts.append(images(params, item.name, forward, machine))
    return "; ".join(parts) or "no probes"


def images(params: Params, policy: str, forward: float | None, machine: Machine) -> str:
    """Returns how many images are made of a policy and how long that takes, at so many FLOPs a forward, if known."""
    number = sum(count or 0 for count in params.generate.prompts.values()) * params.generate.seeds
    hours = making(number, params.sampling(policy), forward, machine)
    return f"{number:,} images in float32, {hours}" if hours else f"{number:,} images"


def making(number: int, made: Mapping[str, Any], forward: float | None, machine: Machine) -> str:
    """Returns how long it takes to make images in a way, at so many FLOPs a forward; empty where it isn't known."""
    plain = plain_rate(machine)
    if not plain or not forward:
        return ""
    return duration(number * forwards(made) * forward / plain / estimates.UTILISATION / machine.processes / 3600)


def of_rounds(params: Params, forward: float | None, machine: Machine) -> Iterator[str]:
    """Yields a line for each round: its images with the time that they take, and its labels, the reward left out."""
    for name, one in params.rounds.items():
        made = params.sampling(one.policy) | {"rules": {}}
        hours = making(rounds.images(one), made, forward, machine)
        yield f"{rounds.told(name, one)}{f'; sampling {hours}' if hours else ''}"


def rules(params: Params, forward: float | None, machine: Machine) -> Iterator[str]:
    """Yields a line for each policy whose images are made by rules: what they cost, the reward's network left out."""
    for name in params.policies:
        made = params.sampling(name)
        if made["rules"]:
            each = forwards(made)
            times = each / forwards(made | {"rules": {}})
            yield (
                f"{name}: images by {', '.join(made['rules'])}, {each:,} forwards each, {times:g} times as many as "
                f"plain; {images(params, name, forward, machine)}"
            )


def plain_rate(machine: Machine) -> float | None:
    """Returns the FLOP/s of float32, in which images are made; None where it isn't known."""
    if machine.precision == "fp32":
        return machine.rate
    return machine.card.plain if machine.card else None


def oddities(item: Plan, pairs: Pairs | None, params: Params) -> Iterator[str]:
    """Yields what in a policy's run can hardly be meant, a line each."""
    policy, name = item.policy, item.name
    if policy.warmup_steps > policy.steps:
        yield (
            f"odd: {name}: the warm-up of {policy.warmup_steps:,} steps is longer than the run of {policy.steps:,}: "
            "its rate never reaches lr. Lower warmup_steps."
        )
    if params.probe.every > policy.steps:
        yield f"odd: {name}: probes come every {params.probe.every:,} steps, the run has {policy.steps:,}: one comes."
    if pairs and not isinstance(policy, Rolled) and not curates(policy):
        known = odd.of_training(round(pairs.number), policy.batch_size, policy.steps)
        yield from (f"odd: {name}: {line}." for line in known)


def disk(params: Params, found: list[Plan]) -> str:
    """Returns the disk space of the model's download, the shards, and what training writes."""
    lines = []
    base = Path(params.model.path)
    if not base.is_dir() and (size := known_models.DOWNLOADS.get(params.model.family)):
        lines.append(f"{base} {si(size)}B to fetch")
    lines.append(shards(params, found[0].counts))
    keep = params.runtime.keep_checkpoints
    trained = [sum(math.prod(shape) for shape in item.counts.shapes()) * estimates.FP32 for item in found]
    largest = max(
        size + keep * (size * (2 if item.policy.ema else 1) + item.memory.optimizer)
        for size, item in zip(trained, found, strict=True)
    )
    lines.append(f"a policy {si(max(trained))}B, up to {si(largest)}B with checkpoints while it trains")
    return f"On the disk: {'; '.join(lines)}. DVC keeps a copy of what stages make, or links it (docs/models.md)."


def shards(params: Params, found: counts.Counts) -> str:
    """Returns the disk space of the encoded images and prompts."""
    latent, flips = tuple(found.latent), params.precompute.flips
    prompt = [tuple(shape) for shape in found.prompt]
    data = Path(params.data.path)
    known = sizes(COMPARISONS) if data.exists() else None
    if known is None:
        image = estimates.shard_bytes(1, 0, latent, prompt, flips)
        each = estimates.shard_bytes(0, 1, latent, prompt, flips)
        return f"encoded, {image / 1e3:.4g} kB an image and {each / 1e3:.4g} kB a prompt"
    images, prompts, length = known
    # The unconditional condition is one more prompt's record.
    size = estimates.shard_bytes(images, prompts + 1, latent, prompt, flips, round(length))
    return f"{si(size)}B for {images:,} encoded images and {prompts:,} prompts"


def sizes(folder: Path) -> tuple[int, int, float] | None:
    """Returns the numbers of distinct images and prompts, and the prompts' mean bytes; None before ingest has run."""
    if not (folder / "comparisons.parquet").exists():
        return None
    table = comparisons.read(folder)
    images = set(table["image_a"].unique().to_pylist()) | set(table["image_b"].unique().to_pylist())
    prompts = ["", *table["prompt"].unique().to_pylist()]
    return len(images), len(prompts), sum(len(text.encode()) for text in prompts) / len(prompts)


def missing(params: Params) -> list[str]:
    """Returns a message for each path in the params without which no plan can be made."""
    family, base = params.model.family, Path(params.model.path)
    places = {"model.path": base} | {
        f"policies.{name}.init": init_files.lora(family, policy.init) or Path(policy.init)
        for name, policy in params.policies.items()
    }
    places |= rounds.inits(params)
    return [
        f"{key}: expected a model's folder or a LoRA file at {path}, found nothing. Models that can be planned before "
        f"they are there: {', '.join(str(known_models.FOLDER / name) for name in known_models.KNOWN)}"
        for key, path in places.items()
        if not path.exists()
        and not known_models.is_known_place(family, path)
        and path.parent != Path("models/policies")  # of a policy that is trained first
    ]


def duration(hours: float) -> str:
    """Returns a time in words: seconds, minutes, hours or days."""
    for limit, factor, unit in ((1 / 60, 3600, "s"), (1, 60, "min"), (72, 1, "h")):
        if hours < limit:
            return f"{hours * factor:.2g} {unit}"
    return f"{hours / 24:.3g} days"


def si(value: float) -> str:
    """Returns a number with a decimal prefix: 6.42e12 is "6.42 T"."""
    power = min(int(math.log10(value)) // 3, 6) if value >= 1 else 0
    return f"{value / 1000**power:.3g} {' kMGTPE'[power].strip()}"
