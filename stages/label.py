"""label@ROUND: the round's images and its raters in; comparisons and shards out, for the policies whose init it is."""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffalign.config.rounds import ASKED, FOLDER, WAITS, Round, weights
from diffalign.core import files, publishing
from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.data import images as pictures
from diffalign.data import votes as records
from diffalign.data.comparisons import table as comparisons
from diffalign.data.comparisons.table import Comparison
from diffalign.data.comparisons.writer import Writer
from diffalign.data.shards import precomputed
from diffalign.evaluation.rounds import compared, heard
from diffalign.generation import round_images
from diffalign.generation.gallery import Gallery
from diffalign.judging import judge as judges
from diffalign.models import inits

if TYPE_CHECKING:
    from diffalign.config.params import Params

COMPARISONS, RATERS = Path("data/comparisons"), Path("data/raters")


@dataclass(frozen=True)
class Labels:
    """A round's comparisons, and what round.json says of them beside the settings."""

    found: list[Comparison]
    about: dict[str, Any]
    told: str


def run(params: "Params", name: str | None = None) -> None:
    """Writes `data/rounds/ROUND`: `comparisons`, `shards` and, last, `round.json`.

    Its validation split, for probes, is that of `data/comparisons`. Raises UserError where people's answers are still
    too few, or no two images of a prompt could be compared.
    """
    if name is None or name not in params.rounds:
        raise UserError(f"label@{name}: expected one of the rounds {sorted(params.rounds)}")
    settings, out, model = params.rounds[name], Path(FOLDER) / name, params.model
    publishing.check_target(out)
    gallery = round_images.read(name)
    labels = by_people(params, name, settings, gallery) if settings.by_people else by_reward(params, name, gallery)
    along = {COMPARISONS: list(kept(settings.with_base))}
    along |= {Path(FOLDER) / other / COMPARISONS.name: list(of_round(other)) for other in settings.with_rounds}
    beside = {str(folder): len(rows) for folder, rows in along.items()}
    how = [settings.model_dump(mode="json"), labels.about, beside]
    inputs = [gallery.folder / "manifest.json", *(folder / comparisons.COMPARISONS for folder in along)]
    work = files.work_folder(f"label-{name}", how, inputs, {"model.family": model.family})
    with files.lock(work):
        write(params, labels.found, along, gallery, work / "out" / "comparisons")
        size = precomputed.How(**params.precompute.model_dump())
        where = work / "out" / "comparisons", work / "out" / "shards"
        precomputed.make(f"label-{name}-shards", *where, (model.family, model.path), size, params.data.max_image_pixels)
        counts = {"images": len(gallery.entries), "labels": len(labels.found)}
        ties = sum(one.answer == "tie" for one in labels.found)
        about = {"schema": 1, "round": name, **settings.model_dump(mode="json"), **counts, "ties": ties}
        about["reference_fingerprint"] = reference_of(params, name)
        files.write_json(work / "out" / "round.json", about | labels.about | {"beside": beside})
        publishing.publish(work / "out", out)
        shutil.rmtree(work)
    sys.stderr.write(
        f"label {name}: {len(labels.found):,} answers of {settings.label} on {len(gallery.entries):,} images of "
        f"{settings.policy}, {ties:,} ties{labels.told}; "
        f"{', '.join(f'{count:,} comparisons of {folder}' for folder, count in beside.items())} beside. "
        f"init: {out} learns from it\n"
    )


def reference_of(params: "Params", name: str) -> str:
    """Returns the hash of the weights that policies of the round are held to: with it they are trained again."""
    model = params.model
    raw = params.model_dump(include={"policies"})["policies"]
    return inits.fingerprint(
        f"rounds.{name}.reference", model.family, model.path, weights(params.rounds[name].reference, raw)
    )


def comparison(name: str, settings: Round, **values: Any) -> Comparison:
    """Returns a comparison of two of a round's images, for training; `values` are its other fields."""
    policy = settings.policy
    return Comparison(source=name, model_a=policy, model_b=policy, split="train", **values)


def by_people(params: "Params", name: str, settings: Round, gallery: Gallery) -> Labels:
    """Returns people's votes as comparisons, one a vote; UserError where they are fewer than the round waits for."""
    shown = {entry.sha256 for entry in gallery.entries}
    votes, left = heard(records.read(RATERS / name), shown, ASKED, params.data.repeats == "all")
    out = "".join(f", {count} {why}" for why, count in sorted(left.items()))
    if len(votes) < (settings.least_votes or 1):
        raise UserError(
            f"label@{name}: {len(votes)} of {settings.least_votes} {WAITS} "
            f"(rounds.{name}.least_votes){f', left out: {out[2:]}' if out else ''}. The {len(gallery.entries):,} "
            f"images wait in {gallery.folder}. Hold a vote: {COMMAND} arena --round {name}; then {COMMAND} "
            "collect, and `dvc repro` goes on from here. What has run stays."
        )
    found = [
        comparison(
            name,
            settings,
            comparison_id=f"{name}-{vote.vote_id}",
            prompt=vote.prompt,
            image_a=vote.image_a,
            image_b=vote.image_b,
            answer=vote.answer,
            rater_id=vote.rater_id,
            created_at=vote.created_at,
            flags=("repeat",) if vote.kind == "repeat" else (),
        )
        for vote in votes
        if vote.answer != "skip"  # `heard` left them out; for the types
    ]
    raters = {vote.rater_id for vote in votes}
    simulated = any(rater.startswith(records.SIMULATED) for rater in raters)
    about = {"simulated": simulated, "raters": len(raters), "left_out": dict(sorted(left.items()))}
    about["both_bad"] = sum(vote.answer == "both_bad" for vote in votes)
    return Labels(found, about, f", {len(raters)} raters{out}")


def by_reward(params: "Params", name: str, gallery: Gallery) -> Labels:
    """Returns the comparisons by a reward's scores; UserError where there are none. Images of equal bytes aren't
    compared."""
    settings, found, every = params.rounds[name], list[Comparison](), list[float]()
    scores = judges.load(settings.label, params.model_dump()["rewards"][settings.label]).score_gallery(gallery)
    of_entry = dict(zip(gallery.entries, scores[settings.label].tolist(), strict=True))
    for group in round_images.by_prompt(gallery):
        each = [of_entry[entry] for entry in group]
        every += each
        key = (settings.seed, 1, group[0].prompt_index * settings.images_per_prompt)
        for pair in compared(each, settings.rule, settings.temperature, key):
            a, b = group[pair.a], group[pair.b]
            if a.sha256 != b.sha256:
                found.append(
                    comparison(
                        name,
                        settings,
                        comparison_id=f"{name}-{a.prompt_index:05d}-{pair.a}-{pair.b}",
                        prompt=a.prompt,
                        image_a=a.sha256,
                        image_b=b.sha256,
                        answer=pair.answer,
                        rater_id=f"simulated: {settings.label}",
                        created_at=None,
                    )
                )
    if not found:
        raise UserError(f"label@{name}: {settings.label} could score no two different images of a prompt")
    unscored, mean = int(np.isnan(every).sum()), float(np.nanmean(every))
    about = {"simulated": True, "unscored": unscored, "mean_score": mean}
    return Labels(found, about, f", {unscored:,} images without a score, mean {mean:.4g}")


def write(
    params: "Params",
    found: Sequence[Comparison],
    along: Mapping[Path, Sequence[Comparison]],
    gallery: Gallery,
    out: Path,
) -> None:
    """Writes a round's comparisons, and those of other folders that go along, each with the images that they show."""
    limits = params.data.max_image_pixels, params.data.max_image_bytes
    entry_of = {entry.sha256: entry for entry in gallery.entries}
    written = shown(found)
    with Writer(out) as writer:
        for digest in sorted(written):
            data = gallery.data(entry_of[digest])
            writer.add_image(digest, data, *pictures.probe(data, *limits))
        for folder, rows in along.items():
            for digest, data in comparisons.iter_images(folder, shown(rows) - written):
                writer.add_image(digest, data, *pictures.probe(data, *limits))
            written |= shown(rows)
        for one in (*found, *(row for rows in along.values() for row in rows)):
            writer.add(one)


def shown(some: Sequence[Comparison]) -> set[str]:
    """Returns the images that comparisons show, by SHA-256."""
    return {key for one in some for key in (one.image_a, one.image_b)}


def kept(train: bool) -> Iterator[Comparison]:
    """Yields the comparisons of `data/comparisons` in the validation split, and in the train split if asked."""
    yield from (one for one in read(COMPARISONS) if one.split == "validation" or (train and one.split == "train"))


def of_round(name: str) -> Iterator[Comparison]:
    """Yields the comparisons of an earlier round's own images."""
    yield from (one for one in read(Path(FOLDER) / name / COMPARISONS.name) if one.source == name)


def read(folder: Path) -> Iterator[Comparison]:
    """Yields a folder's comparisons."""
    for row in comparisons.read(folder).to_pylist():
        yield Comparison(**row | {"flags": tuple(row["flags"] or ())})
