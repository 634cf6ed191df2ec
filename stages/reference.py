"""reference: the reference's errors at K draws a pair, once for all policies that say `reference: cached`."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.core import files, publishing
from diffalign.core.errors import UserError
from diffalign.reference import cache
from diffalign.runtime import switches

if TYPE_CHECKING:
    from diffalign.config.params import Params

COMPARISONS, SHARDS, OUT = Path("data/comparisons"), Path("data/shards"), Path("data/reference")


def run(params: "Params") -> None:
    """Writes `data/reference`, going on after the last finished part of a killed attempt.

    With no draws asked for, a manifest that says so. Raises UserError for inputs that don't belong together.
    """
    if not params.reference.draws:
        with publishing.replacing(OUT) as folder:
            cache.write_manifest(folder, {"draws": 0})
        return
    publishing.check_target(OUT)
    if switches.read("DIFFALIGN_LAUNCHER") == "external":
        raise UserError(
            "reference: expected DIFFALIGN_LAUNCHER to be unset, found 'external': only training joins a launcher's "
            "processes. Run `dvc repro reference` on one node, without it, and train on all of them after that."
        )
    measure(params)


def measure(params: "Params") -> None:
    """Measures the errors in as many processes as training would have, and publishes them."""
    # Only here: a project that keeps no errors doesn't wait for torch.
    from diffalign.data.shards import reader as shards
    from diffalign.models import family as families
    from diffalign.models import inits
    from diffalign.models.agreement import check_init
    from diffalign.planning import compiling
    from diffalign.reference import worker
    from diffalign.runtime.environment import default_device, precision, world_size
    from diffalign.runtime.launch import launch

    check_init("reference.init", params.model.family, params.model.path, params.reference.init)
    init = inits.fingerprint("reference.init", params.model.family, params.model.path, params.reference.init)
    model = families.load(params.model.family, params.model.path, ())
    shards.check(SHARDS, model.fingerprint(), flips=params.reference.flip != "none")
    users = [name for name, policy in params.policies.items() if getattr(policy, "reference", None) == "cached"]
    decision = compiling.chosen(params, users)
    if default_device() == "cuda":
        sys.stderr.write(decision.told("reference"))
    spec = worker.Spec(
        family=params.model.family,
        model=params.model.path,
        settings=params.reference,
        pairs=params.pairs.model_copy(update={"weights": [], "sources": {}}),
        comparisons=str(COMPARISONS),
        shards=str(SHARDS),
        device=default_device(),
        precision=precision(),
        compiled=decision.compiled,
        part=worker.PART,
    )
    inputs, how = (spec.model, COMPARISONS, SHARDS), (spec.precision, spec.compiled)
    settings, pairs = spec.settings.model_dump(mode="json"), spec.pairs.model_dump(mode="json")
    made_with = cache.fingerprint(settings, pairs, init, *inputs, *how)
    pair_ids = [pair.pair_id for pair in worker.training_pairs(spec)]
    if not pair_ids:
        raise UserError(
            f"{COMPARISONS} has no untied comparison in the train split under the rule {cache.which(pairs)}"
        )
    work = files.work_folder(
        "reference", [spec.model_dump(mode="json"), made_with], [], {"model.family": params.model.family}
    )
    with files.lock(work) as held:
        files.remove_unfinished(work)
        if world_size() == 1:
            worker.run(spec, work)
        else:
            files.write_json(work / "spec.json", spec.model_dump(mode="json"))
            launch("diffalign.reference.worker", [str(work / "spec.json")], world_size(), work / "error.txt", held)
        cache.write(work / "out", made_with, pair_ids, worker.collect(spec, work, len(pair_ids)))
        publishing.publish(work / "out", OUT)
        shutil.rmtree(work)
