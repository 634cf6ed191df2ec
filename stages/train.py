"""train@POLICY: pairs and shards in; the policy's weights and its training curve out."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.config import rounds
from diffalign.config.methods import sft
from diffalign.config.rollout import Rolled
from diffalign.config.training import Trained
from diffalign.core.errors import UserError
from diffalign.core.files import lock, work_folder, write_json_lines
from diffalign.core.publishing import check_target
from diffalign.data import odd
from diffalign.data.batches.pairs import Pair, make_pairs
from diffalign.data.batches.votes import select
from diffalign.data.comparisons import table as comparisons
from diffalign.data.filters.flags import Flagged
from diffalign.data.shards import reader as shards
from diffalign.models import family as families
from diffalign.models import init_files, inits, rater_tokens
from diffalign.models.agreement import check_init
from diffalign.models.policies import publish_untrained
from diffalign.reference import cache
from diffalign.runtime import environment, external
from diffalign.training import curation, start
from diffalign.training.rollout_source import check_rewards, needed_files
from diffalign.training.spec import Machine, Spec

if TYPE_CHECKING:
    from diffalign.config.pairs import Pairs
    from diffalign.config.params import Params

COMPARISONS, SHARDS, REFERENCE = Path("data/comparisons"), Path("data/shards"), Path("data/reference")
FEEDBACK = Path("data/feedback")
"""What each policy's training reads of rewards, and their code: another reward begins an unfinished training afresh."""


def run(params: "Params", policy: str | None = None) -> None:
    """Trains one policy, going on from where a killed attempt of the same work stopped."""
    if policy is None or policy not in params.policies:
        raise UserError(f"train@{policy}: expected one of the policies {sorted(params.policies)}")
    settings = params.policies[policy]
    check_init(f"policies.{policy}.init", params.model.family, params.model.path, settings.init)
    family, base = params.model.family, params.model.path
    init = inits.fingerprint(f"policies.{policy}.init", family, base, settings.init)
    out, curve = Path("models/policies") / policy, Path("curves") / f"{policy}.jsonl"
    check_target(out)
    if not isinstance(settings, Trained):
        if init_files.lora(family, settings.init):
            inits.publish(policy, settings.model_dump(), family, base, out)
        else:
            publish_untrained(policy, settings.model_dump(), init, out)
        write_json_lines(curve, [{"step": 0}])  # of an empty file DVC warns
        return
    curated = curate(params, policy, settings)
    check_data(params, policy, settings, curated)
    model = families.load(params.model.family, params.model.path, ())
    shards.check(data_of(settings)[1], model.fingerprint(), flips=settings.flip != "none")
    spec = make_spec(params, policy, settings, init, start.this_machine(), curated)
    undecided = environment.compile_choice() is None
    if settings.reference == "cached":
        if undecided:  # as its reference was computed
            spec, undecided = spec.with_compiled(cache.made_compiled(REFERENCE)), False
        check_reference(params, init, spec.machine.precision, spec.machine.compiled)
    inputs = inputs_of(settings, Path(params.model.path))
    if (feedback := FEEDBACK / f"{policy}.json").is_file():  # made by DVC; a stage that runs by itself has none
        inputs.append(feedback)
    named = {"item.method": settings.method, "model.family": params.model.family}
    work = work_folder(f"train-{policy}", spec.work(), inputs, named)  # not the machine: another one goes on with it
    if (place := external.place()) and place.rank:
        start.join(spec, work, place.rank)
        return
    with lock(work) as held:
        if undecided:
            from diffalign.planning import compiling

            decision = compiling.chosen(params, [policy], start.compiled_before(work))
            sys.stderr.write(decision.told(f"train {policy}"))
            spec = spec.with_compiled(decision.compiled)
        start.train(spec, work, held)
        start.finish(spec, work, out, curve, params.precompute.resolution)
    sys.stderr.write(f"train {policy}: {out}\n")


def check_data(params: "Params", policy: str, settings: Trained, curated: str | None) -> None:
    """Says what a policy is trained on; UserError where a reward of its own pictures lacks what it needs."""
    if isinstance(settings, Rolled):
        check_rewards(policy, settings)
        made, learned = params.generate.sampling(policy)["guidance"], settings.rollout.guidance
        if settings.method == "nft" and made != learned:
            line = f"it learns with guidance {learned:g}, but its images will be made with {made:g}"
            remedy = f"generate.overrides: {{{policy}: {{guidance: {learned}}}}}"
            sys.stderr.write(f"careful: train {policy}: {line}: {remedy}.\n")
    elif curated is None:
        say_pairs(policy, pairs_of(params, settings), settings)


def inputs_of(settings: Trained, model: Path) -> list[Path]:
    """Lists the files whose content names a training's inputs; `model` is the base model's folder."""
    data, encoded = data_of(settings)
    files = [
        data / "comparisons.parquet",
        encoded / "manifest.json",
        model / "scheduler" / "scheduler_config.json",
    ]
    if settings.reference == "cached":
        files.append(REFERENCE / cache.MANIFEST)
    if settings.rater_tokens and (known := Path(settings.init) / rater_tokens.FILE).is_file():
        files.append(known)
    return files + needed_files(settings, model) if isinstance(settings, Rolled) else files


def data_of(settings: Trained) -> tuple[Path, Path]:
    """Returns the folders of the comparisons and shards that a policy learns from: its round's, if it has one."""
    if settings.round is None:
        return COMPARISONS, SHARDS
    folder = Path(rounds.FOLDER) / settings.round
    return folder / COMPARISONS.name, folder / SHARDS.name


def pairs_of(params: "Params", settings: Trained) -> "Pairs":
    """Returns the section `pairs` with a policy's own raters, if it has any."""
    return params.pairs if settings.raters is None else params.pairs.model_copy(update={"raters": settings.raters})


def say_pairs(policy: str, how: "Pairs", settings: Trained) -> None:
    """Says how many pairs of the train split aren't learned from, ties and what a filter flagged, and what is odd."""
    table = comparisons.read(data_of(settings)[0])

    def pairs(flagged: Flagged, ties: bool) -> list[Pair]:
        return make_pairs(table, "train", how.rule, how.raters, flagged=flagged, axes=how.axes, ties=ties)

    every = pairs("keep", ties=True)
    ties = sum(pair.strength == 0.5 for pair in every)
    learned = found = len(every) if how.ties else len(every) - ties
    if ties:
        words = "used as half a vote for each image" if how.ties else "left out (pairs.ties: false)"
        sys.stderr.write(f"train {policy}: {ties:,} of {len(every):,} pairs are ties, {words}\n")
    if how.flagged != "keep":
        learned = len(pairs(how.flagged, how.ties))
        left = found - learned
        sys.stderr.write(f"train {policy}: pairs.flagged {how.flagged}: {left:,} of {found:,} pairs left out\n")
    odd_ones = odd.of_training(learned, settings.batch_size, settings.steps)
    sys.stderr.writelines(f"careful: train {policy}: {line}.\n" for line in odd_ones)


def curate(params: "Params", policy: str, settings: Trained) -> str | None:
    """Returns the file of the images that a policy with `curate` is trained on, and says how many; else None."""
    if not isinstance(settings, sft.Settings) or settings.curate is None:
        return None
    rewards, most = params.model_dump()["rewards"], params.data.max_image_pixels
    how = settings.curate, settings.swap_labels, pairs_of(params, settings)
    file, found = curation.prepared(policy, *how, data_of(settings)[0], rewards, most)
    sys.stderr.write(f"train {policy}: {found.told()}\n")
    odd_ones = odd.of_training(len(found.kept), settings.batch_size, settings.steps, "images")
    sys.stderr.writelines(f"careful: train {policy}: {line}.\n" for line in odd_ones)
    return file


def make_spec(
    params: "Params", policy: str, settings: Trained, init: str, machine: Machine, curated: str | None = None
) -> Spec:
    """Returns the run that params ask for; `init` is the hash of the weights that it starts from."""
    data, encoded = data_of(settings)
    return Spec(
        name=policy,
        family=params.model.family,
        model=params.model.path,
        policy=settings,
        init_fingerprint=init,
        reference_fingerprint=reference_of(params, settings),
        pairs=pairs_of(params, settings),
        comparisons=str(data),
        shards=str(encoded),
        reference=str(REFERENCE),
        machine=machine,
        runtime=params.runtime,
        probe=params.probe if params.probe.every else None,
        rewards={name: params.model_dump()["rewards"][name] for name in params.probe.rewards},
        curated=curated,
        token_rows=token_rows(settings, pairs_of(params, settings)),
    )


def token_rows(settings: Trained, how: "Pairs") -> tuple[str, ...]:
    """Returns the raters whose vectors a policy has: its init's, then the others whose pairs it learns from.

    None without `rater_tokens`. Raises UserError where answers have no rater.
    """
    if settings.rater_tokens is None:
        return ()
    folder = data_of(settings)[0]
    found = select(comparisons.read(folder), "train", how.raters, how.axes)["rater_id"].unique().to_pylist()
    if None in found:
        raise UserError(
            f"{folder}: rater_tokens expects a rater for every answer of the train split, some have none. Name those "
            "to learn from in the policy's `raters`."
        )
    return rater_tokens.rows(Path(settings.init), sorted(found))


def reference_of(params: "Params", settings: Trained) -> str | None:
    """Returns the hash of the weights that a policy is held to, where its round names others than its init."""
    if settings.reference_init is None:
        return None
    key, model = f"rounds.{settings.round}.reference", params.model
    check_init(key, model.family, model.path, settings.reference_init)
    return inits.fingerprint(key, model.family, model.path, settings.reference_init)


def check_reference(params: "Params", weights: str, precision: str, compiled: bool) -> None:
    """Raises UserError unless the kept errors of the reference are those of these params, inputs and forwards.

    `weights` is the hash of the denoiser that is the reference.
    """
    settings, pairs = params.reference.model_dump(mode="json"), params.pairs.model_dump()
    expected = cache.fingerprint(settings, pairs, weights, params.model.path, COMPARISONS, SHARDS, precision, compiled)
    cache.check_fingerprint(cache.read_manifest(REFERENCE), expected)
