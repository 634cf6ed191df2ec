"""The training loop: one policy, one method, 1..N processes, the same global batch.

`python -m diffalign.training.loop WORK/spec.json` is one worker; `training/start.py` launches as many as there are
processes, or one for each process of an external launcher.
Resumes from WORK's newest good checkpoint and leaves the trained policy in WORK/out, the curve in WORK/curve.jsonl.
On a SIGTERM or Ctrl-C it finishes its step, saves, and exits with 75; while it compiles it exits at once.
"""

import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffalign.config.rollout import Rolled
from diffalign.core import collector
from diffalign.core.errors import STOPPED, Outage, Stopped, UserError
from diffalign.core.files import disk_errors, write_json, write_text
from diffalign.core.progress import Progress
from diffalign.data.batches.pair_batches import PairSource
from diffalign.diffusion import losses
from diffalign.methods import method as methods
from diffalign.reference.reference import MARGINS, check_margins
from diffalign.runtime import devices
from diffalign.runtime.processes import die_with_parent
from diffalign.training import checkpoints, monitor
from diffalign.training.checkpoints import Checkpoint
from diffalign.training.curve_file import LOGGED_STEPS
from diffalign.training.dataset import Sources
from diffalign.training.learner import (
    Learner,
    build,
    dropout,
    live_reference,
    make_accelerator,
    published_weights,
)
from diffalign.training.publishing import publish
from diffalign.training.resume import RATE, agreed, resume, say, state_tensors
from diffalign.training.spec import Spec
from diffalign.training.spec import read as read_spec
from diffalign.training.step import check_skips, optimizer_step

if TYPE_CHECKING:
    from accelerate import Accelerator

NO_DROPOUT = (
    "the denoiser's config asks for dropout {share:g}; training leaves it off, as its method compares the policy with "
    "its reference at equal inputs, and both must be one function before the first step"
)

MISSING = (
    "warning: train {name}: step {step}: {count} of {all} pictures of the rollout have no reward ({rewards}) and teach "
    "nothing. Does the reward know such prompts, does its service answer (what failed is said above), and are the "
    "pictures and gradients finite? The curve has the share as `dropped`."
)
SAID_AGAIN = 100
"""Optimizer steps after which missing rewards are said again."""


@dataclass
class Job:
    """Holds one policy's training on this process."""

    spec: Spec
    work: Path
    learner: Learner
    method: methods.Method
    sources: Sources
    environments: list[dict[str, Any]]
    """From the first step on; the last one is this process's."""
    watching: monitor.Monitor | None
    missing_said: int | None = None
    """The last step at which missing rewards were said."""

    def logging(self, step: int) -> bool:
        """Tells whether a step's figures are logged: every so many, the last one's, and those that alarms look at."""
        wanted = isinstance(self.spec.policy, Rolled) and self.watching is not None and self.watching.due(step)
        return wanted or step % self.spec.runtime.log_every == 0 or step == self.spec.policy.steps


def run(spec: Spec, work: Path) -> None:
    """Trains from the newest checkpoint in `work` to the end, and writes the policy to `work/out`.

    Raises Stopped when asked to end before that, in one of the processes: all have finished the same step by then.
    """
    machine = spec.machine
    accelerator = make_accelerator(machine.device, machine.processes, machine.precision)
    devices.set_up(accelerator.device, machine.precision)
    spec = agreed(spec, work, accelerator)
    machine = spec.machine
    learner = build(spec, accelerator, machine.parallel, machine.compiled)
    if machine.compiled:
        stop_while_compiling(spec, learner)
    sources = Sources(spec, learner)
    if spec.policy.reference == "cached":
        check_reference(spec, learner, sources.source(PairSource))
    method = methods.load(spec.policy, sources)
    learner.stop.listen()
    step, environments = resume(spec, learner, method, work)
    watching = monitor.start(spec, learner, method, work, monitor.read_lines(work / LOGGED_STEPS))
    if watching and (alarm := watching.alarm()):
        raise UserError(alarm)
    if step:
        say(accelerator, f"train {spec.name}: goes on from step {step}")
    else:
        say_about(spec, method.about(), accelerator)
    if share := dropout(learner.denoiser):
        say(accelerator, f"train {spec.name}: {NO_DROPOUT.format(share=share)}")
    job = Job(spec, work, learner, method, sources, environments, watching)
    take_steps(job, step)
    finish(job)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def say_about(spec: Spec, about: dict[str, float], accelerator: "Accelerator") -> None:
    """Says what a method's beta, or its clip, is in other code's terms; nothing of one that has neither."""
    if (beta := about.get("beta")) is not None:
        say(accelerator, f"train {spec.name}: {losses.beta_text(beta, spec.policy.lr, about)}")
    if (clip := about.get("clip_sd15")) is not None:
        say(
            accelerator,
            f"train {spec.name}: its clip is like {clip:.3g} at Stable Diffusion 1.5's latents of 512 pixels",
        )


def stop_while_compiling(spec: Spec, learner: Learner) -> None:
    """Makes this process end soon when asked to while it compiles."""
    from diffalign.runtime.compile_stop import CompileStop  # imports PyTorch's compiler

    text = f"train {spec.name}: asked to stop while compiling; ended at once, and goes on from the last checkpoint\n"
    CompileStop(learner.stop, text if learner.accelerator.is_main_process else "").start()


def take_steps(job: Job, step: int) -> None:
    """Trains from a step to the last; raises Stopped when asked to end, UserError where an alarm ends it."""
    policy, accelerator = job.spec.policy, job.learner.accelerator
    steps = policy.steps
    progress = Progress(f"train {job.spec.name}", steps, step)
    while step < steps:
        logging = job.logging(step + 1)
        with job.sources.pace.step():
            logs = optimizer_step(job.learner, job.method, policy, step, logging)
        step += 1
        check_skips(job.spec, job.learner.skips, step)
        alarm = note(job, step, logs)
        stopping = job.learner.stop.agreed and step < steps
        if stopping or alarm or (step % job.spec.runtime.checkpoint_every == 0 and step < steps):
            save_checkpoint(job, step)
        if alarm:
            raise UserError(alarm)
        if accelerator.is_main_process:
            progress.update(extra=shown(logs) if logs else "")
        if stopping:
            say(accelerator, f"train {job.spec.name}: asked to stop; saved at step {step} of {steps}")
            accelerator.end_training()
            raise Stopped


def note(job: Job, step: int, logs: dict[str, float] | None) -> str | None:
    """Adds a step's averages and, where it's time, the probe's to the curve; the alarm that ends the run, if any."""
    looking = job.watching is not None and job.watching.due(step)
    line: dict[str, float] = {}
    say_missing(job, step, logs or {})
    if logs is not None and all(math.isfinite(value) for value in logs.values()):
        line = {**logs, "skipped": job.learner.skips.total}
    if job.watching and looking:
        line |= job.watching.look(step, line)
    if line:
        append(job.learner.accelerator, job.work / LOGGED_STEPS, {"step": step, **line})
    return job.watching.alarm() if job.watching and looking else None


def say_missing(job: Job, step: int, logs: dict[str, float]) -> None:
    """Says that pictures of a logged step's rollout have no reward, where some lack it, once in `SAID_AGAIN` steps."""
    policy, share, said = job.spec.policy, logs.get("dropped", 0.0), job.missing_said
    if not isinstance(policy, Rolled) or not share or (said is not None and step < said + SAID_AGAIN):
        return
    job.missing_said, pictures = step, policy.batch_size * policy.rollout.updates
    counts = {"count": round(share * pictures), "all": pictures, "rewards": ", ".join(policy.reward)}
    say(job.learner.accelerator, MISSING.format(name=job.spec.name, step=step, **counts))


def finish(job: Job) -> None:
    """Publishes the policy, with what was seen of its training and the counts of its data."""
    accelerator = job.learner.accelerator
    seen = job.watching.facts() if job.watching else {"alarms": None, "chosen": monitor.last(job.spec)}
    peak = devices.peak_bytes(accelerator.device)  # before the policy is loaded once more, to be published
    weights = published_weights(job.learner)
    if accelerator.is_main_process:
        write_json(job.work / RATE, {**job.sources.pace.facts(), "peak_bytes": peak})
        facts = {**job.sources.counts(), "conventions": job.method.about(), "environments": job.environments, **seen}
        publish(job.spec, weights, facts, job.work)


def check_reference(spec: Spec, learner: Learner, source: PairSource) -> None:
    """Compares some of the reference's kept errors with the live one's, which is there for that only."""
    denoiser = learner.accelerator.unwrap_model(learner.denoiser)
    reference = live_reference(spec, learner.model, denoiser, learner.parallel)
    share = check_margins(source, reference, learner.accelerator.autocast, spec.machine.precision)
    text = f"{MARGINS} kept margins or more agree with the live reference's to {share:.2g} of a pair's mean error"
    say(learner.accelerator, f"train {spec.name}: {text}")
    del reference
    devices.release()


def save_checkpoint(job: Job, step: int) -> None:
    """Writes a checkpoint from the first process, which has the state in full; old ones go, as `runtime` says."""
    accelerator, folder = job.learner.accelerator, job.work / "checkpoints"
    checkpoint = Checkpoint(step, job.spec.owner(), job.environments, state_tensors(job.learner, job.method))
    if accelerator.is_main_process:
        with open(job.work / LOGGED_STEPS, "a") as curve:
            os.fsync(curve.fileno())
        checkpoints.save(folder, checkpoint, job.spec.runtime.keep_checkpoints)
    accelerator.wait_for_everyone()
    if job.watching:
        job.watching.prune(checkpoints.steps(folder))


def append(accelerator: "Accelerator", path: Path, line: dict[str, float]) -> None:
    """Adds a line to the curve, from the first process."""
    if accelerator.is_main_process:
        with disk_errors(path), open(path, "a") as file:
            file.write(json.dumps(line) + "\n")


def shown(logs: dict[str, float]) -> str:
    """Returns the numbers behind the progress bar."""
    names = ("loss", "implicit_accuracy", "winner_change", "loser_change")
    return " ".join(f"{name} {logs[name]:.4g}" for name in names if name in logs)


def main() -> None:
    """Runs one worker: `loop FOLDER/spec.json [WORK]`, where WORK is FOLDER unless it's said.

    A user's error goes to FOLDER/error.txt for the stage to raise; with a full disk to stderr. It exits with 2, or with
    75 where a service doesn't answer: the next attempt goes on from the newest checkpoint.
    """
    die_with_parent()
    collector.rare_while_loading()
    path = Path(sys.argv[1])
    try:
        run(read_spec(path), Path(sys.argv[2]) if len(sys.argv) > 2 else path.parent)
    except Stopped:
        sys.exit(STOPPED)
    except UserError as error:
        try:
            write_text(path.parent / "error.txt", str(error))
        except UserError:
            sys.stderr.write(f"error: {error}\n")
        sys.exit(STOPPED if isinstance(error, Outage) else 2)


if __name__ == "__main__":
    main()
