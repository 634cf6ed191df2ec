"""collect@ROUND: a policy's own images for training prompts, compared by a reward, as comparisons and shards."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffalign.config.rounds import FOLDER, Round
from diffalign.core import files, publishing
from diffalign.core.errors import UserError
from diffalign.core.progress import Progress
from diffalign.data import images as pictures
from diffalign.data.comparisons import table as comparisons
from diffalign.data.comparisons.table import Comparison
from diffalign.data.comparisons.writer import Writer
from diffalign.data.prompts.prompt_set import Prompt
from diffalign.data.shards import precomputed
from diffalign.evaluation.rounds import compared
from diffalign.generation.pipeline import sampling_of
from diffalign.generation.writer import Job, jobs_of, write_images
from diffalign.judging import judge as judges
from diffalign.models import policies
from diffalign.runtime.environment import default_device

if TYPE_CHECKING:
    from diffalign.config.params import Params

COMPARISONS, POLICIES = Path("data/comparisons"), Path("models/policies")


def run(params: "Params", name: str | None = None) -> None:
    """Writes `data/rounds/ROUND`: `comparisons`, `shards` and, last, `round.json`; goes on where it was killed.

    Its validation split, for probes, is that of `data/comparisons`. Raises UserError where there are no training
    prompts, the policy can't be loaded, or no two images of a prompt could be compared.
    """
    if name is None or name not in params.rounds:
        raise UserError(f"collect@{name}: expected one of the rounds {sorted(params.rounds)}")
    settings, out, model = params.rounds[name], Path(FOLDER) / name, params.model
    publishing.check_target(out)
    jobs = asked(settings)
    made = params.sampling(settings.policy)
    if made["rules"]:
        sys.stderr.write(f"collect {name}: images are made without {', '.join(made['rules'])}\n")
    weights = [file for file in sorted((POLICIES / settings.policy).rglob("*")) if file.is_file()]
    how = [settings.model_dump(), made, params.generate.batch_size, params.model_dump()["rewards"][settings.label]]
    inputs = [*weights, COMPARISONS / comparisons.COMPARISONS]
    work = files.work_folder(f"collect-{name}", how, inputs, {"model.family": model.family})
    with files.lock(work):
        make_images(params, settings, made, jobs, work / "images", f"collect {name}")
        scores = scored(params, settings, jobs, work / "images")
        found = labelled(name, settings, jobs, scores, work / "images")
        along = list(kept(settings.with_base))
        write(params, found, along, jobs, work)
        size = precomputed.How(**params.precompute.model_dump())
        where = work / "out" / "comparisons", work / "out" / "shards"
        precomputed.make(
            f"collect-{name}-shards", *where, (model.family, model.path), size, params.data.max_image_pixels
        )
        about = counted(name, settings, found, along, scores)
        files.write_json(work / "out" / "round.json", about)
        publishing.publish(work / "out", out)
        shutil.rmtree(work)
    sys.stderr.write(f"collect {name}: {told(about)}. In {out}; init: {out} learns from it\n")


def asked(settings: Round) -> list[Job]:
    """Lists the images to make, for training prompts in an order by the round's seed; fewer are said on stderr."""
    every = comparisons.prompts(comparisons.read(COMPARISONS), "train")
    if not every:
        raise UserError(f"{COMPARISONS} has no prompts in the train split: nothing to make images for")
    if len(every) < settings.prompts:
        sys.stderr.write(f"careful: {len(every)} training prompts, {settings.prompts} were asked for: all are used.\n")
    order = np.random.default_rng((settings.seed, 0)).permutation(len(every))[: settings.prompts]
    return jobs_of([Prompt(every[i], "train") for i in order], settings.images_per_prompt)


def make_images(
    params: "Params", settings: Round, made: dict[str, Any], jobs: list[Job], folder: Path, what: str
) -> None:
    """Makes the images that aren't there yet: noise by the round's seed, the policy's own sampler and guidance."""
    model = params.model
    write_images(
        lambda: policies.load_policy(
            model.family, model.path, POLICIES / settings.policy, default_device(), ("vae", "text")
        ),
        jobs,
        folder,
        noise_seed=settings.seed,
        resolution=params.precompute.resolution,
        how=sampling_of(made),
        batch_size=params.generate.batch_size,
        what=what,
    )


def scored(params: "Params", settings: Round, jobs: Sequence[Job], folder: Path) -> list[float]:
    """Returns the reward's score of each image; NaN where it has none."""
    judge = judges.load(settings.label, params.model_dump()["rewards"][settings.label])
    progress, found = Progress(f"score by {settings.label}", len(jobs)), list[float]()
    most, size = params.data.max_image_pixels, params.generate.batch_size
    for part in (jobs[i : i + size] for i in range(0, len(jobs), size)):
        shown = [np.asarray(pictures.decode((folder / job.file).read_bytes(), most)) for job in part]
        found += judge.score(shown, [job.prompt for job in part])[judge.name].tolist()
        progress.update(len(part))
    return found


def labelled(
    name: str, settings: Round, jobs: Sequence[Job], scores: Sequence[float], folder: Path
) -> list[Comparison]:
    """Returns the comparisons of a round; UserError where there are none. Images of equal bytes aren't compared."""
    found = []
    size = settings.images_per_prompt
    for start in range(0, len(jobs), size):
        group = jobs[start : start + size]
        digests = [files.sha256_file(folder / job.file) for job in group]
        key = (settings.seed, 1, start)
        for pair in compared(scores[start : start + size], settings.rule, settings.temperature, key):
            if digests[pair.a] != digests[pair.b]:
                found.append(
                    Comparison(
                        comparison_id=f"{name}-{group[0].prompt_index:05d}-{pair.a}-{pair.b}",
                        prompt=group[0].prompt,
                        image_a=digests[pair.a],
                        image_b=digests[pair.b],
                        answer=pair.answer,
                        rater_id=f"simulated: {settings.label}",
                        source=name,
                        model_a=settings.policy,
                        model_b=settings.policy,
                        created_at=None,
                        split="train",
                    )
                )
    if not found:
        raise UserError(f"collect@{name}: {settings.label} could score no two different images of a prompt")
    return found


def write(
    params: "Params", found: Sequence[Comparison], along: Sequence[Comparison], jobs: list[Job], work: Path
) -> None:
    """Writes a round's comparisons, and those of `data/comparisons` that go along, with the images that they show."""
    files_of = {files.sha256_file(path): path for path in (work / "images" / job.file for job in jobs)}
    own, theirs = ({key for one in some for key in (one.image_a, one.image_b)} for some in (found, along))
    limits = params.data.max_image_pixels, params.data.max_image_bytes
    with Writer(work / "out" / "comparisons") as writer:
        for digest in sorted(own):
            data = files_of[digest].read_bytes()
            writer.add_image(digest, data, *pictures.probe(data, *limits))
        for digest, data in comparisons.iter_images(COMPARISONS, theirs - own):
            writer.add_image(digest, data, *pictures.probe(data, *limits))
        for one in (*found, *along):
            writer.add(one)


def counted(
    name: str, settings: Round, found: Sequence[Comparison], along: Sequence[Comparison], scores: Sequence[float]
) -> dict[str, Any]:
    """Returns what round.json says: the settings, the labels that were asked, and what of them is no answer."""
    return {
        "schema": 1,
        "round": name,
        **settings.model_dump(),
        "simulated": True,
        "images": len(scores),
        "unscored": int(np.isnan(scores).sum()),
        "labels": len(found),
        "ties": sum(one.answer == "tie" for one in found),
        "mean_score": float(np.nanmean(scores)),
        "base_comparisons": len(along),
    }


def kept(train: bool) -> Iterator[Comparison]:
    """Yields the comparisons of `data/comparisons` in the validation split, and in the train split if asked."""
    for row in comparisons.read(COMPARISONS).to_pylist():
        if row["split"] == "validation" or (train and row["split"] == "train"):
            yield Comparison(**row | {"flags": tuple(row["flags"] or ())})


def told(about: dict[str, Any]) -> str:
    """Returns a round's counts as a sentence."""
    return (
        f"{about['labels']:,} labels asked of {about['label']} on {about['images']:,} images of {about['policy']} "
        f"(mean score {about['mean_score']:.4g}), {about['ties']:,} ties, {about['unscored']:,} without a score, "
        f"{about['base_comparisons']:,} comparisons of {COMPARISONS} beside"
    )
