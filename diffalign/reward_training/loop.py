"""The training loop of a reward model, in one process on one device; a killed one goes on bit for bit.

It resumes from WORK's newest good checkpoint, and leaves the curve in WORK/curve.jsonl and the folder to publish in
WORK/out. On a SIGTERM or Ctrl-C it finishes its step, saves, and raises Stopped.
"""

import json
import os
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from diffalign.config.pairs import Pairs
from diffalign.config.reward_models import RewardModel
from diffalign.config.runtime import Runtime
from diffalign.core import records
from diffalign.core.errors import Stopped, UserError
from diffalign.core.files import canonical_json, disk_errors, sha256_bytes, sha256_file
from diffalign.core.progress import Progress
from diffalign.reward_training import data, objective, scorer, validation
from diffalign.reward_training.data import Data
from diffalign.reward_training.scorer import Scorer
from diffalign.rewards.parts import card, folders
from diffalign.rewards.parts.card import Accuracy, Card
from diffalign.runtime.signals import StopRequest, noted
from diffalign.training import checkpoints
from diffalign.training.checkpoints import Checkpoint
from diffalign.training.curve_file import LOGGED_STEPS, cut
from diffalign.training.optimizers import OPTIMIZERS

BEST = "best."
"""Prefix of a checkpoint's tensors that are the best step's, by validation."""


@dataclass(frozen=True)
class Spec:
    """One training of a reward model: what, on what data, on what machine."""

    name: str
    settings: RewardModel
    pairs: Pairs
    comparisons: Path
    max_image_pixels: int
    init_fingerprint: str
    runtime: Runtime
    machine: dict[str, Any]
    """`device`, `precision` and what else decides how numbers are rounded."""

    def owner(self) -> str:
        """Returns a name of this work, for its checkpoints; neither the machine nor the runtime is in it."""
        values = [self.settings.model_dump(mode="json"), self.pairs.model_dump(mode="json"), self.init_fingerprint]
        return f"reward-{self.name}-{sha256_bytes(canonical_json(values).encode())[:16]}"


@dataclass
class Job:
    """A training in progress."""

    spec: Spec
    work: Path
    scorer: Scorer
    data: Data
    optimizer: Optimizer
    environments: list[dict[str, Any]] = field(default_factory=list)
    validated: dict[int, Accuracy] = field(default_factory=dict)
    """By step; step 0 is before training."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The weights of the best validated step; empty unless the settings choose by validation."""

    @property
    def chosen(self) -> int:
        """Returns the step whose weights are published: the last, or the first of the best by validation."""
        rates = {step: found.accuracy for step, found in self.validated.items() if step and found.accuracy is not None}
        if self.spec.settings.choose == "last" or not rates:
            return self.spec.settings.steps
        return max(rates, key=lambda step: (rates[step], -step))


def run(spec: Spec, work: Path) -> Card:
    """Trains from the newest checkpoint in `work` to the end, and writes the reward model to `work/out`."""
    settings, device, precision = spec.settings, spec.machine["device"], spec.machine["precision"]
    learner = scorer.load(spec.name, settings, device, precision)
    read = data.read(spec.name, settings, spec.pairs, spec.comparisons, learner, work, spec.max_image_pixels)
    optimizer = OPTIMIZERS[settings.optimizer](list(learner.trained.values()), settings.lr, settings.weight_decay)
    job = Job(spec, work, learner, read, optimizer)
    step = resume(job)
    say_start(job, step)
    with noted() as request:
        take_steps(job, step, request)
    return finish(job)


def resume(job: Job) -> int:
    """Restores the newest good checkpoint and cuts the curve to it; returns its step, 0 without one."""
    found = checkpoints.newest(job.work / "checkpoints", job.spec.owner())
    step, environments = (found.step, found.environments) if found else (0, [])
    cut(job.work / LOGGED_STEPS, step if found else -1)
    if found:
        scorer.restore(job.scorer, found.tensors)
        checkpoints.load_optimizer(job.optimizer, found.tensors)
        job.best = {n.removeprefix(BEST): value for n, value in found.tensors.items() if n.startswith(BEST)}
    for line in read_curve(job.work / LOGGED_STEPS):
        if "validation/pairs" in line:
            job.validated[int(line["step"])] = accuracy_of(line)
    present = job.spec.machine
    if not environments or {k: v for k, v in environments[-1].items() if k != "from_step"} != present:
        environments = [*environments, {"from_step": step, **present}]
        if step:
            tell(job, f"from step {step} on another machine: the result isn't promised bit for bit")
    job.environments = environments
    return step


def say_start(job: Job, step: int) -> None:
    """Says what is learnt from, or where training goes on."""
    if step:
        tell(job, f"goes on from step {step}")
        return
    read, shares = job.data, Counter(one.share == 0.5 for one in job.data.preferences)
    weights, total = (
        sum(value.numel() for value in values)
        for values in (job.scorer.trained.values(), job.scorer.model.parameters())
    )
    tell(
        job,
        f"{len(read.preferences):,} comparisons, {shares[True]:,} of them ties, {len(read.held_out):,} pairs to "
        f"validate on; {weights / 1e6:.3g}M of {total / 1e6:.3g}M weights are trained",
    )


def take_steps(job: Job, step: int, request: StopRequest) -> None:
    """Trains from a step to the last; raises Stopped when asked to end before that."""
    settings, runtime = job.spec.settings, job.spec.runtime
    if not step:
        note(job, 0, {})
    progress = Progress(f"reward {job.spec.name}", settings.steps, step)
    while step < settings.steps:
        logs = optimizer_step(job, step)
        step += 1
        last = step == settings.steps
        note(job, step, logs if step % runtime.log_every == 0 or last else {})
        stopping = bool(request.asked) and not last
        if stopping or (step % runtime.checkpoint_every == 0 and not last):
            save_checkpoint(job, step)
        progress.update(extra=shown(logs, job.validated))
        if stopping:
            tell(job, f"asked to stop; saved at step {step} of {settings.steps}")
            raise Stopped


def optimizer_step(job: Job, step: int) -> dict[str, float]:
    """Takes one step on a batch; returns its averages. Raises UserError for a gradient that isn't finite.

    The loss is the weighted sum over the batch divided by its size, however it's cut into forwards.
    """
    settings, model = job.spec.settings, job.scorer.model
    rate = objective.learning_rate(step, settings.lr, settings.warmup_steps, settings.steps, settings.schedule)
    job.optimizer.param_groups[0]["lr"] = rate
    chosen = data.indices(settings.seed, step, settings.batch_size, len(job.data.preferences))
    loss, right = torch.zeros((), device=model.device), []
    for start in range(0, settings.batch_size, settings.micro_batch_size):
        batch = job.data.batch(chosen[start : start + settings.micro_batch_size])
        first, second = pair_scores(job.scorer, batch)
        share, weight = batch.share.to(first.device), batch.weight.to(first.device)
        value = (weight * objective.preference_loss(first, second, share)).sum() / settings.batch_size
        value.backward()
        loss += value.detach()
        right.append(objective.correct(first.detach(), second.detach(), share))
    norm = torch.nn.utils.clip_grad_norm_(job.scorer.trained.values(), settings.max_grad_norm)
    if not torch.isfinite(norm):
        raise UserError(
            f"training of reward {job.spec.name} diverged: the gradient of step {step + 1} isn't finite. Lower "
            f"reward_models.{job.spec.name}.lr, or raise warmup_steps."
        )
    job.optimizer.step()
    job.optimizer.zero_grad(set_to_none=True)
    logs = {"loss": loss.item(), "lr": rate, "grad_norm": norm.item(), "scale": model.logit_scale.exp().item()}
    agreed = torch.cat(right).nanmean().item()
    return logs if agreed != agreed else {**logs, "accuracy": agreed}  # a batch may have ties only


def pair_scores(learner: Scorer, batch: data.Batch) -> tuple[Tensor, Tensor]:
    """Returns the scores of both images of each preference, [B] and [B], with gradients."""
    texts = learner.texts(batch.tokens)
    first, second = learner.images(torch.cat([batch.first, batch.second])).chunk(2)
    scale = learner.model.logit_scale
    return objective.scores(first, texts, scale), objective.scores(second, texts, scale)


def note(job: Job, step: int, logs: dict[str, float]) -> None:
    """Adds a step's averages and, where it's time, its validation to the curve; keeps the weights if they are best."""
    settings, line = job.spec.settings, dict(logs)
    if step in (0, settings.steps) or (settings.validate_every and step % settings.validate_every == 0):
        found = validation.accuracy(job.scorer, job.data, 2 * settings.micro_batch_size)
        job.validated[step] = found
        line |= {f"validation/{name}": value for name, value in found.model_dump().items() if value is not None}
        if settings.choose == "validation" and job.chosen == step:
            job.best = {name: value.detach().clone() for name, value in job.scorer.trained.items()}
    if line:
        path = job.work / LOGGED_STEPS
        with disk_errors(path), open(path, "a") as file:
            file.write(json.dumps({"step": step, **line}) + "\n")


def save_checkpoint(job: Job, step: int) -> None:
    """Writes a checkpoint: the trained weights, the optimizer's moments, the best weights; old ones go."""
    with open(job.work / LOGGED_STEPS, "a") as file:
        os.fsync(file.fileno())
    tensors: dict[str, Tensor] = {**job.scorer.trained, **checkpoints.optimizer_tensors(job.optimizer)}
    tensors |= {f"{BEST}{name}": value for name, value in job.best.items()}
    found = Checkpoint(step, job.spec.owner(), job.environments, tensors)
    checkpoints.save(job.work / "checkpoints", found, job.spec.runtime.keep_checkpoints)


def finish(job: Job) -> Card:
    """Writes to WORK/out the chosen weights in transformers' layout with their card, which it returns."""
    spec, read, out = job.spec, job.data, job.work / "out"
    shutil.rmtree(out, ignore_errors=True)  # what a killed attempt half wrote
    out.mkdir(parents=True)
    if job.best:
        scorer.restore(job.scorer, job.best)
    scorer.save(job.scorer, Path(spec.settings.init), out)
    found = Card(
        name=spec.name,
        preferences=len(read.preferences),
        ties=sum(one.share == 0.5 for one in read.preferences),
        prompts=len({one.prompt for one in read.preferences}),
        images=len({image for one in read.preferences for image in (one.first, one.second)}),
        raters=list(spec.pairs.raters),
        sha256=sha256_file(out / folders.WEIGHTS),
        step=job.chosen,
        before=job.validated[0],
        validation=job.validated[job.chosen],
        settings=spec.settings.model_dump(mode="json"),
        init_fingerprint=spec.init_fingerprint,
        environments=job.environments,
    )
    records.write(out / card.FILE, found)
    return found


def read_curve(path: Path) -> list[dict[str, float]]:
    """Returns the lines of a curve that was just cut, and is whole."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def accuracy_of(line: dict[str, float]) -> Accuracy:
    """Returns the validation that stands in a line of the curve."""
    values = {name: line.get(f"validation/{name}") for name in ("accuracy", "ci_low", "ci_high", "loss")}
    return Accuracy(**values, pairs=int(line["validation/pairs"]))


def shown(logs: dict[str, float], validated: dict[int, Accuracy]) -> str:
    """Returns the numbers behind the progress bar."""
    newest = validated[max(validated)]
    held_out = "" if newest.accuracy is None else f" held-out accuracy {newest.accuracy:.3f}"
    return f"loss {logs['loss']:.4f}{held_out}"


def tell(job: Job, text: str) -> None:
    """Writes a line on stderr."""
    sys.stderr.write(f"reward {job.spec.name}: {text}\n")
