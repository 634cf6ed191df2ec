"""train@POLICY: pairs and shards in; the policy's weights and its training curve out."""

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diffalign.config.training import Trained
from diffalign.core.errors import UserError
from diffalign.core.files import RUNS, hash_folder, lock, work_folder, write_json, write_text
from diffalign.core.publishing import check_target, publish, replacing
from diffalign.data.shards import reader as shards
from diffalign.models import family as families
from diffalign.models.agreement import check_init
from diffalign.reference import cache as cached
from diffalign.runtime import external, timings
from diffalign.runtime.environment import (
    compiled,
    default_device,
    gpu,
    parallel,
    precision,
    threads,
    world_size,
)
from diffalign.runtime.launch import launch
from diffalign.training import loop as training
from diffalign.training.resume import LOGGED_STEPS
from diffalign.training.spec import Machine, Spec

if TYPE_CHECKING:
    from diffalign.config.methods.none import Settings as Untrained
    from diffalign.config.params import Params

COMPARISONS, SHARDS, REFERENCE = Path("data/comparisons"), Path("data/shards"), Path("data/reference")


def run(params: "Params", policy: str | None = None) -> None:
    """Trains one policy, going on from where a killed attempt of the same work stopped."""
    if policy is None or policy not in params.policies:
        raise UserError(f"train@{policy}: expected one of the policies {sorted(params.policies)}")
    settings = params.policies[policy]
    check_init(f"policies.{policy}.init", params.model.family, params.model.path, settings.init)
    weights = families.denoiser_weights(f"policies.{policy}.init", params.model.family, settings.init)
    init, out, curve = hash_folder(weights), Path("models/policies") / policy, Path("curves") / f"{policy}.jsonl"
    check_target(out)
    if not isinstance(settings, Trained):
        publish_untrained(policy, settings, init, out, curve)
        return
    model = families.load(params.model.family, params.model.path, ())
    shards.check(SHARDS, model.fingerprint(), flips=settings.flip != "none")
    spec = make_spec(params, policy, settings, init, machine())
    schedule = Path(params.model.path) / "scheduler" / "scheduler_config.json"
    inputs = [COMPARISONS / "comparisons.parquet", SHARDS / "manifest.json", schedule]
    if settings.reference == "cached":
        check_reference(params, init, spec.machine.precision, spec.machine.compiled)
        inputs.append(REFERENCE / cached.MANIFEST)
    named = {"item.method": settings.method, "model.family": params.model.family}
    work = work_folder(f"train-{policy}", spec.work(), inputs, named)  # not the machine: another one goes on with it
    if (place := external.place()) and place.rank:
        join(spec, work, place.rank)
        return
    with lock(work) as held:
        spec.write(work / "spec.json")
        show_live(work, policy)
        launch("diffalign.training.loop", [str(work / "spec.json")], spec.machine.processes, work / "error.txt", held)
        publish(work / "out", out)
        write_text(curve, (work / LOGGED_STEPS).read_text())
        record_rate(spec, params.precompute.resolution, work / training.RATE)
        shutil.rmtree(work / "checkpoints", ignore_errors=True)  # first: none may outlive the curve that leads to it
        shutil.rmtree(work)
    sys.stderr.write(f"train {policy}: {out}\n")


def join(spec: Spec, work: Path, rank: int) -> None:
    """Trains as a later process of an external launcher, maybe on another node; the first one publishes the policy."""
    own = work.with_name(f"{work.name}-rank-{rank}")
    own.mkdir(parents=True, exist_ok=True)
    with lock(own) as held:
        spec.write(own / "spec.json")
        arguments = [str(own / "spec.json"), str(work)]
        launch("diffalign.training.loop", arguments, spec.machine.processes, own / "error.txt", held)
    shutil.rmtree(own)


def make_spec(params: "Params", policy: str, settings: Trained, init: str, machine: Machine) -> Spec:
    """Returns the run that params ask for; `init` is the hash of the weights that it starts from."""
    return Spec(
        name=policy,
        family=params.model.family,
        model=params.model.path,
        policy=settings,
        init_fingerprint=init,
        pairs=params.pairs,
        comparisons=str(COMPARISONS),
        shards=str(SHARDS),
        reference=str(REFERENCE),
        machine=machine,
        runtime=params.runtime,
        probe=params.probe if params.probe.every else None,
        rewards={name: params.model_dump()["rewards"][name] for name in params.probe.rewards},
    )


def machine() -> Machine:
    """Returns what the environment says of where and how to train."""
    place = external.place()
    return Machine(
        device=default_device(),
        gpu=gpu(),
        processes=world_size(),
        threads=threads(place.local_processes if place else world_size()),
        precision=precision(),
        parallel=parallel(),
        compiled=compiled(),
        torch=torch.__version__,
    )


def record_rate(spec: Spec, resolution: int, path: Path) -> None:
    """Notes how fast it trained, for the next `plan`; nothing where one step was left at most, which warms up."""
    rate = json.loads(path.read_text())
    if rate["steps"] > 0:
        policy = spec.policy.model_dump(mode="json")
        about = {
            "family": spec.family,
            "resolution": resolution,
            "policy": policy,
            "machine": spec.machine.model_dump(),
            "log_every": spec.runtime.log_every,
        }
        pairs_per_second = rate["steps"] * spec.policy.batch_size / rate["seconds"]
        timings.record_rate(spec.name, pairs_per_second, rate["waited"], rate["peak_bytes"], about)


def publish_untrained(name: str, settings: "Untrained", init: str, out: Path, curve: Path) -> None:
    """Publishes a policy without training: its metadata says that it is its init."""
    about = {"schema": 1, "name": name, "init_fingerprint": init, "adapter": "none", "steps": 0}
    with replacing(out) as folder:  # without the weights that it had with another method
        write_json(folder / "policy.json", {**settings.model_dump(), **about})
    write_text(curve, "")


def check_reference(params: "Params", weights: str, precision: str, compiled: bool) -> None:
    """Raises UserError unless the kept errors of the reference are those of these params, inputs and forwards.

    `weights` is the hash of the denoiser that is the reference.
    """
    settings, pairs = params.reference.model_dump(mode="json"), params.pairs.model_dump()
    expected = cached.fingerprint(settings, pairs, weights, params.model.path, COMPARISONS, SHARDS, precision, compiled)
    cached.check_fingerprint(cached.read_manifest(REFERENCE), expected)


def show_live(work: Path, policy: str) -> None:
    """Links runs/live/train@POLICY.jsonl to the curve as it grows, for whoever watches."""
    live = RUNS / "live" / f"train@{policy}.jsonl"
    live.parent.mkdir(parents=True, exist_ok=True)
    live.unlink(missing_ok=True)
    live.symlink_to((work / LOGGED_STEPS).resolve())
