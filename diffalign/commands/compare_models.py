"""Makes the images of a model that is compared: a folder in diffusers' layout, or a policy of params.yaml by name."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffalign.config.samplers import FAMILIES
from diffalign.core import files
from diffalign.core.code import code_hash
from diffalign.core.errors import UserError
from diffalign.data import captioned
from diffalign.data.comparisons import table as comparisons
from diffalign.data.comparisons.table import COMPARISON_SCHEMA, SPLITS
from diffalign.data.prompts.prompt_set import Prompt
from diffalign.generation.gallery import DTYPE, Gallery
from diffalign.generation.pipeline import sampling_of
from diffalign.generation.prompts import chosen, counted
from diffalign.generation.writer import entries, jobs_of, write_images
from diffalign.models import family as families
from diffalign.models import policies
from diffalign.models.family import Family
from diffalign.runtime.environment import default_device
from diffalign.shapes.scenes import parse_caption

if TYPE_CHECKING:
    from diffalign.config.params import Params

COMPARISONS, POLICIES = Path("data/comparisons"), Path("models/policies")
PIPELINES = {
    "StableDiffusionPipeline": "sd15",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
}
Kind = Literal["a policy", "a model", "images"]


@dataclass(frozen=True)
class Asked:
    """What images are made for: a set or a file of prompts, None: params.yaml's; at most `count`; `seeds` of each."""

    prompts: str | None
    count: int | None
    seeds: int


def kind(params: "Params", where: str) -> Kind:
    """Returns what a side is; UserError where it's nothing that can be compared."""
    folder = Path(where)
    if where in params.policies:
        return "a policy"
    if (folder / "model_index.json").is_file():
        return "a model"
    if folder.is_dir() and any(p.suffix.lower() in captioned.SUFFIXES for p in folder.rglob("*")):
        return "images"
    found = "a folder without either" if folder.is_dir() else "another file" if folder.exists() else "nothing there"
    raise UserError(
        f"{where}: expected a policy ({', '.join(params.policies)}), a model's folder in diffusers' layout "
        f"(model_index.json), or a folder of images, found {found}."
    )


def make(params: "Params", name: str, where: str, asked: Asked, folder: Path) -> Gallery:
    """Makes the images of a model below `folder`, those that aren't there yet, and returns them.

    Equal prompts and seeds have the same initial noise on both sides, where their latents have one shape.
    """
    family, load, state = source(params, where)
    prompts, sets = chosen_prompts(params, asked)
    made = sampling(params, where, family)
    resolution = params.precompute.resolution
    key = [state, made, resolution, asked.seeds, [p.text for p in prompts], params.generate.batch_size]
    code = code_hash("generate", {"model.family": family})
    out = folder / files.sha256_bytes(files.canonical_json([key, code]).encode())[:16]
    out.mkdir(parents=True, exist_ok=True)
    files.remove_unfinished(out)
    jobs = jobs_of(prompts, asked.seeds)
    write_images(
        load,
        jobs,
        out,
        noise_seed=0,
        resolution=resolution,
        how=sampling_of(made),
        batch_size=params.generate.batch_size,
        what=f"compare: images of {name}",
    )
    about = {"policy": name, "noise_seed": 0, "sets": sets, "seeds": asked.seeds}
    about |= {**made, "resolution": resolution, "dtype": DTYPE}
    return Gallery(out, about, tuple(entries(jobs, out)))


def source(params: "Params", where: str) -> tuple[str, Callable[[], Family], list[Any]]:
    """Returns a model's family, the function that loads it, and what tells its files from others'."""
    if where in params.policies:
        family: str = params.model.family
        base, folder = params.model.path, POLICIES / where
        if not (folder / "policy.json").is_file():
            raise UserError(f"{folder} is missing: the policy isn't trained. Train it: dvc repro train@{where}")
        init = Path(params.policies[where].init)
        state = [listed(one) for one in (folder, init, Path(base))]
        return family, lambda: policies.load_policy(family, base, folder, default_device()), state
    folder = Path(where)
    family = family_of(folder)
    return family, lambda: families.load(family, folder, device=default_device()), [listed(folder)]


def family_of(folder: Path) -> str:
    """Returns the family of a model in diffusers' layout, by its model_index.json; UserError for another pipeline."""
    path = folder / "model_index.json"
    try:
        named = json.loads(path.read_bytes()).get("_class_name")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {error}") from None
    if named not in PIPELINES:
        raise UserError(f"{path}: expected a pipeline among {', '.join(PIPELINES)}, found {named!r}.")
    return PIPELINES[named]


def listed(folder: Path) -> list[list[Any]]:
    """Lists a folder's files with size and time of change: other weights have other images, without a checksum."""
    found = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in found]


def sampling(params: "Params", where: str, family: str) -> dict[str, Any]:
    """Returns how a side's images are made: as `generate` says, for a policy its overrides, for flows their sampler."""
    made = params.generate.sampling(where)
    if made["rules"]:
        rules = ", ".join(made["rules"])
        sys.stderr.write(f"compare: images of {where} are made without its {rules}: weights are compared here\n")
        made["rules"] = {}
    fits = params.generate.sampler.process == FAMILIES[family]
    return made if fits else made | {"sampler": {"name": "flow_euler"} if FAMILIES[family] == "flow" else DDIM}


DDIM = {"name": "ddim", "eta": 0.0, "spacing": "trailing"}
"""The sampler of diffusion models where params.yaml has one of flows."""


def chosen_prompts(params: "Params", asked: Asked) -> tuple[list[Prompt], list[dict[str, Any]]]:
    """Returns the prompts, captions of the shapes world with their kind of scene, and their counts by set."""
    wanted = params.generate.prompts if asked.prompts is None else {asked.prompts: asked.count}
    if asked.prompts is None and asked.count is not None:
        wanted = {name: min(asked.count, asked.count if n is None else n) for name, n in wanted.items()}
    if "train" in wanted:
        raise UserError("compare: expected prompts that no model learnt from, got the train split. Take test.")
    splits = [name for name in wanted if name in SPLITS]
    there = COMPARISONS.is_dir()
    if splits and not there:
        raise UserError(
            f"compare: expected prompts of the {splits[0]} split in {COMPARISONS}, found none. Make it: dvc repro "
            "ingest; or say other prompts: --prompts parti, or a .txt or .tsv file"
        )
    table = comparisons.read(COMPARISONS) if there else COMPARISON_SCHEMA.empty_table()
    prompts = chosen(table, wanted)
    kinds = [p.category or (scene.kind if (scene := parse_caption(p.text)) else None) for p in prompts]
    found = [Prompt(p.text, p.set, category) for p, category in zip(prompts, kinds, strict=True)]
    return found, [one.model_dump() for one in counted(found, wanted, table)]
