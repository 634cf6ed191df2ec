"""Monitors a training: probes every so many steps, raises alarms, keeps the weights of the best probe.

In WORK: reference-MACHINE.safetensors, the reference's errors at the fixed draws as first measured on a machine;
best/step-*.safetensors; pictures/step-*.png. The probes so far are the curve's lines: a resume restores no more.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from diffalign.config.probe import Probe
from diffalign.config.rollout import Rolled, used
from diffalign.core.errors import UserError
from diffalign.core.files import canonical_json, sha256_bytes, write_bytes
from diffalign.methods.method import Method
from diffalign.monitoring import alarms, curve, probe
from diffalign.monitoring.curve import Point
from diffalign.monitoring.probe import Draws, Floats
from diffalign.reference.reference import pair_errors
from diffalign.runtime import devices
from diffalign.runtime.parallel import share
from diffalign.training.dataset import held_out_pairs, pair_source
from diffalign.training.learner import Learner, as_published, live_reference, published, published_weights
from diffalign.training.previews import Previews, open_previews
from diffalign.training.spec import Spec

REFERENCE, BEST, PICTURES = "reference-{}.safetensors", "best", "pictures"


@dataclass
class Monitor:
    """Probes one training, on every rank; all ranks make the same calls."""

    spec: Spec
    settings: Probe
    learner: Learner
    method: Method
    draws: Draws
    reference: Floats
    """The reference's errors [N, K, 2]."""
    history: list[Point]
    pictures: Previews | None
    work: Path

    @property
    def thresholds(self) -> alarms.Thresholds:
        """Returns the alarms' thresholds by name; None: that alarm is off."""
        return {name: getattr(self.settings, name) for name in alarms.ALARMS}

    def due(self, step: int) -> bool:
        """Tells whether a step, counted from 1, is probed: every so many, and the last one."""
        return step % self.settings.every == 0 or step == self.spec.policy.steps

    def look(self, step: int, logs: Mapping[str, float]) -> dict[str, float]:
        """Runs a probe, reports new alarms, saves the weights if best; returns the metrics for the curve.

        `logs` are the step's own figures.
        """
        with as_published(self.learner):
            point = self.seen()
            if self.pictures is not None:
                point |= self.pictures.take(step, self.learner.accelerator)
        point |= self.of_rollout(logs)
        point |= alarms.of_rollouts(self.history, point)
        held = alarms.raised({"step": step, **point}, self.thresholds)
        point |= {f"alarm/{name}": float(name in held) for name in alarms.due(point)}
        self.history.append({"step": step, **point})
        for line in alarms.news(self.history, self.thresholds):
            self.say(f"warning: train {self.spec.name}: step {step}: {line}")
        self.keep_best(step)
        return dict(curve.named(point))

    def of_rollout(self, logs: Mapping[str, float]) -> Point:
        """Returns a step's figures of the policy's own pictures that alarms look at; empty where it makes none."""
        policy = self.spec.policy
        if not isinstance(policy, Rolled) or "reward_std" not in logs:
            return {}
        reward = sum(used(name, values)[0] * logs[f"reward_{name}"] for name, values in policy.reward.items())
        return {"reward": reward} | {name: logs[name] for name in ("reward_std", "clip_share", "kl") if name in logs}

    def seen(self) -> Point:
        """Returns the metrics of a probe of the denoiser as it is."""
        learner, accelerator, draws = self.learner, self.learner.accelerator, self.draws
        policy = probe.measure(draws, partial(pair_errors, learner.model.denoise), accelerator)
        prompts = [pair.prompt for pair in draws.pairs]
        point = probe.describe(self.reference, policy, prompts, draws.t, draws.edges, self.method.pull)
        if learner.reference is not None and self.spec.policy.reference == "live":
            again = probe.measure(draws, learner.reference, accelerator, first=True)
            point["reference_drift"] = probe.drift(self.reference, again)
        return point

    def alarm(self) -> str | None:
        """Returns the message that ends the run where the newest probe raised an alarm and `probe.on_alarm` is stop."""
        if self.settings.on_alarm != "stop" or not self.history:
            return None
        held = alarms.raised(self.history[-1], self.thresholds)
        if not held:
            return None
        limits = {name: limit for name in held if (limit := self.thresholds[name]) is not None}
        alarms_text = " ".join(f"{name}: {alarms.explained(name, value, limits[name])}" for name, value in held.items())
        return (
            f"training of {self.spec.name} was stopped by an alarm at step {self.history[-1]['step']}: {alarms_text} "
            "The checkpoint is kept: to go on all the same, set probe.on_alarm to warn and run the same command."
        )

    def keep_best(self, step: int) -> None:
        """Keeps what would be published if the probe of this step is the best so far, where they may be chosen."""
        if self.spec.policy.choose == "probe" and alarms.best(self.history, self.thresholds)[0] == step:
            found = published_weights(self.learner)
            if self.learner.accelerator.is_main_process:
                tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in found.items()}
                write_bytes(best_file(self.work, step), save(tensors))
            self.learner.accelerator.wait_for_everyone()

    def prune(self, kept: list[int]) -> None:
        """Removes weights that are the best neither of all probes nor of those up to one of the `kept` checkpoints."""
        if not self.learner.accelerator.is_main_process:
            return
        histories = [self.history, *([p for p in self.history if p["step"] <= step] for step in kept)]
        needed = {best_file(self.work, alarms.best(h, self.thresholds)[0]) for h in histories if h}
        for path in (self.work / BEST).glob("step-*.safetensors"):
            if path not in needed:
                path.unlink()

    def choose(self) -> dict[str, Any]:
        """Puts the chosen step's weights into what is published at the end of training; which one, and why."""
        if self.spec.policy.choose == "last":
            return last(self.spec)
        step, why = alarms.best(self.history, self.thresholds)
        file = best_file(self.work, step)
        if not file.is_file():
            raise UserError(f"{file}, the weights of the best probe, is missing. Delete {self.work} and train again.")
        tensors = load_file(file)
        with torch.no_grad():
            for name, weight in published(self.learner).items():
                weight.copy_(share(tensors[name], weight))
        self.say(f"train {self.spec.name}: step {step} is published: {why}")
        return {"step": step, "why": why}

    def facts(self) -> dict[str, Any]:
        """Returns what policy.json says of the probes: the alarms, and which step's weights are published."""
        found = alarms.listed(self.history, self.thresholds)
        return {"alarms": [asdict(alarm) for alarm in found], "chosen": self.choose()}

    def say(self, text: str) -> None:
        """Writes a line on stderr, from the first process."""
        if self.learner.accelerator.is_main_process:
            sys.stderr.write(text + "\n")


def start(spec: Spec, learner: Learner, method: Method, work: Path, lines: list[dict[str, float]]) -> Monitor | None:
    """Returns the monitor of a training that begins, or goes on after `lines` of its curve; None without probes.

    Reports on stderr where no pairs are held out; UserError if the run depends on probes then.
    """
    settings = spec.probe
    if settings is None:
        return None
    pairs = held_out_pairs(spec)[: settings.pairs]
    if not pairs:
        lacking = f"{spec.comparisons} has no untied comparison in the validation split"
        if spec.policy.choose == "probe" or settings.on_alarm == "stop":
            raise UserError(
                f"{lacking}: no probe can choose policies.{spec.name}'s step or stop its training. Raise "
                "data.validation or name a file so; or set choose to last and probe.on_alarm to warn."
            )
        if learner.accelerator.is_main_process:
            sys.stderr.write(f"train {spec.name}: {lacking}: no probes\n")
        return None
    draws = Draws(pair_source(spec, learner, pairs), pairs, settings.draws, settings.seed)
    machine = sha256_bytes(canonical_json(spec.machine.model_dump()).encode())[:16]  # another one rounds otherwise
    reference = reference_errors(spec, learner, draws, work / REFERENCE.format(machine))
    pictures = open_previews(spec, settings, learner, draws, work / PICTURES) if settings.images else None
    if pictures and (text := unjudged(spec)) and learner.accelerator.is_main_process:
        sys.stderr.write(f"train {spec.name}: {text}\n")
    return Monitor(spec, settings, learner, method, draws, reference, curve.points(lines), pictures, work)


def unjudged(spec: Spec) -> str | None:
    """Returns a line that says that the policy is trained on all of the probe's rewards, so that none is a judge."""
    if not isinstance(spec.policy, Rolled) or not spec.rewards or spec.policy.judge(spec.rewards):
        return None
    return (
        f"its pictures for held-out prompts are scored by {', '.join(spec.rewards)}, which it is trained on: that is "
        "no judge, and the alarm judge_falls can't be raised. For a judge add another of rewards to probe.rewards."
    )


def reference_errors(spec: Spec, learner: Learner, draws: Draws, file: Path) -> Floats:
    """Returns the reference's errors [N, K, 2] as they were measured when the training began.

    Loads the init for this where the reference isn't in memory, and frees it again.
    """
    accelerator = learner.accelerator
    if not file.is_file():
        at_hand = learner.reference if spec.policy.reference == "live" else None
        errors = at_hand or live_reference(
            spec, learner.model, accelerator.unwrap_model(learner.denoiser), learner.parallel
        )
        found = probe.measure(draws, errors, accelerator)
        if accelerator.is_main_process:
            write_bytes(file, save({"errors": torch.from_numpy(found)}))
        accelerator.wait_for_everyone()
        del errors
        devices.release()
    result: Floats = load_file(file)["errors"].numpy()
    return result


def read_lines(path: Path) -> list[dict[str, float]]:
    """Reads the lines of a curve, which `curve_file.cut` has checked."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def best_file(work: Path, step: int) -> Path:
    """Returns the file of a probe's weights."""
    return work / BEST / f"step-{step:08d}.safetensors"


def last(spec: Spec) -> dict[str, Any]:
    """Returns what policy.json says where the last step's weights are published."""
    return {"step": spec.policy.steps, "why": "the last one (choose: last)"}
