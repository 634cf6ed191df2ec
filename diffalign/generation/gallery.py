"""Reads a policy's generated images as generate published them: a folder of PNGs and a manifest with checksums."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from diffalign.core import records
from diffalign.core.errors import UserError
from diffalign.core.files import sha256_bytes
from diffalign.core.records import Record

DTYPE: Literal["float32"] = "float32"
"""The numbers that generate's networks compute with."""
MADE = ("sampler", "steps", "guidance", "rules", "resolution", "dtype")
"""Keys of a manifest that describe the generation of its images."""


class Rewarded(Record):
    """What a reward said of an image on which it decided, by a rule of sampling; None where it couldn't score."""

    first: float | None
    """The score of the image without the rule, from the same noise; with `coupled`, of coupled sampling without it."""
    kept: float | None
    """The score of this image, before it was rounded to 8 bits."""
    at: int
    """The number of the attempt or the iteration that this image is of; 0: it is the one without the rule."""
    missing: int
    """How many attempts or iterations couldn't be scored."""


class Entry(Record):
    """One image: its file's name and SHA-256, and what it was made for."""

    file: str
    prompt: str
    set: str
    """The name of the prompt's set; for prompts of the data, that of their split."""
    category: str | None
    """The prompt's category in its set, such as Animals; None where the set has none."""
    prompt_index: int
    seed: int
    sha256: str
    rewarded: Rewarded | None = None
    """None where no reward decided."""

    @property
    def slot(self) -> tuple[int, int]:
        """Returns (prompt, seed): the images of two policies at one slot are compared with each other."""
        return self.prompt_index, self.seed


class PromptCount(Record):
    """A set of prompts that images were made for: how many it has here, were asked for (None: all), were trained on."""

    name: str
    prompts: int
    asked: int | None
    in_training: int
    """Prompts that the training split repeats, whatever their case and spacing."""


class Manifest(Record):
    """The manifest that generate writes beside a policy's images."""

    version: Literal[3] = Field(default=3, alias="schema")
    policy: str
    noise_seed: int
    sets: tuple[PromptCount, ...]
    seeds: int
    sampler: dict[str, Any]
    """Its name and its settings."""
    steps: int
    guidance: float
    rules: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """The rules of sampling with their settings, by name; empty: plain sampling."""
    reward: str | None = None
    """The version of the reward that decided; None where none did."""
    forwards: int | None = None
    """The network's forwards that an image took (see `forwards`); None in older manifests."""
    resolution: int
    dtype: str
    images: tuple[Entry, ...]


@dataclass(frozen=True)
class Gallery:
    """One policy's images, in the order of their slots."""

    folder: Path
    about: dict[str, Any]
    """The manifest but for its images."""
    entries: tuple[Entry, ...]
    stage: str | None = None
    """The stage that made it; None: generate@POLICY."""

    @property
    def made(self) -> dict[str, Any]:
        """Returns the settings of generation: `sampler`, `steps`, `guidance`, `rules`, `resolution`, `dtype`."""
        return {key: self.about[key] for key in MADE}

    @property
    def noise(self) -> tuple[int, str]:
        """Returns what is equal for two policies whose images began from the same noise, each slot's from one.

        Where a reward decided on the images, it chose the noise: then nobody's is the same.
        """
        chosen = set(self.made["rules"] or ()) - {"mix_base", "rater"}
        return self.about["noise_seed"], self.about["policy"] if chosen else ""

    def data(self, entry: Entry) -> bytes:
        """Returns an image's bytes; UserError unless they are those of the manifest."""
        path = self.folder / entry.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} can't be read ({error.strerror}). {self.remedy}") from None
        if sha256_bytes(data) != entry.sha256:
            raise UserError(
                f"{path} has changed since it was generated: its SHA-256 isn't the manifest's. {self.remedy}"
            )
        return data

    def pixels(self, entry: Entry) -> NDArray[np.uint8]:
        """Returns an image as uint8 [H, W, 3]."""
        return np.asarray(Image.open(io.BytesIO(self.data(entry))).convert("RGB"))

    @property
    def remedy(self) -> str:
        """Returns the advice for images that are missing or damaged."""
        return f"Run `dvc repro --force {self.stage or 'generate@' + str(self.about['policy'])}`."


def read(folder: Path, maker: str = "generate") -> Gallery:
    """Reads a policy's gallery; UserError if its manifest is missing or not one. Images are checked when they're read.

    The folder is named after the policy, or after what else the stage MAKER@NAME made it for.
    """
    stage = f"{maker}@{folder.name}"
    manifest = records.read(folder / "manifest.json", Manifest, stage)
    if any(Path(entry.file).name != entry.file for entry in manifest.images):
        raise records.damaged(folder / "manifest.json", stage, ["it names files outside its folder"])
    about = manifest.model_dump(exclude={"images"})
    return Gallery(folder, about, tuple(sorted(manifest.images, key=lambda e: e.slot)), stage)


def check_made(gallery: Gallery, asked: Mapping[str, Any]) -> None:
    """Raises UserError unless a gallery was made as `asked`: `sampler`, `steps`, `guidance`, `rules`, `resolution`.

    Images that were made another way show the other way's effect, not the policy's.
    """
    wanted = {**asked, "dtype": DTYPE}
    if lines := differences(gallery.made, wanted):
        raise UserError(
            f"{gallery.folder} wasn't made as params.yaml asks for now: {'; '.join(lines)}. {gallery.remedy}"
        )


def forwards(made: Mapping[str, Any]) -> int:
    """Returns the network's forwards that an image takes, made so; a backward by the network's input counts as one.

    Guidance takes two a step, a mix of two networks twice as many; the best of n, n times that. An iteration of
    `optimise` takes three plain images (the image, and its steps again with a backward each), and the last image one:
    3 iterations + 1 in all, so that the best of 3 iterations + 1 costs the same; twice that where it is coupled.
    """
    rules = made["rules"]
    plain = made["steps"] * (1 if made["guidance"] == 1 else 2) * (2 if "mix_base" in rules else 1)
    if optimise := rules.get("optimise"):
        plain *= (3 * optimise["iterations"] + 1) * (1 if optimise["coupled"] is None else 2)
    return int(plain * rules.get("best_of", {}).get("n", 1))


def decided(reward: str, entries: Sequence[Entry]) -> str:
    """Says what became of images on which a reward decided: of how many it is higher than without the rule, the means.

    Images without a score before or after are left out, and counted.
    """
    found = [entry.rewarded for entry in entries if entry.rewarded]
    both = [(one.first, one.kept) for one in found if one.first is not None and one.kept is not None]
    lines = [f"{reward} scores none of {len(found)} images: they are those without the rule"]
    if both:
        up = sum(kept > first for first, kept in both)
        means = (sum(column) / len(both) for column in zip(*both, strict=True))
        lines = [f"{reward} is higher for {up} of {len(both)} images, mean " + " -> ".join(f"{m:.4g}" for m in means)]
        if len(both) < len(found):
            lines.append(f"{len(found) - len(both)} others have no score before or after")
    if missing := sum(one.missing for one in found):
        lines.append(f"{missing} attempts couldn't be scored")
    return "; ".join(lines)


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Lists what differs between two ways of making images, a line a key."""
    return [f"{key}: expected {wanted[key]}, found {found[key]}" for key in MADE if found[key] != wanted[key]]


def check_comparable(galleries: Iterable[Gallery]) -> None:
    """Raises UserError unless all have images for the same prompts and seeds, of one resolution and dtype.

    Whether each was made by the sampler, steps and guidance that params ask for is `check_made`'s to say: they may
    differ between policies.
    """
    first, *others = galleries
    slots = [(e.slot, e.prompt) for e in first.entries]
    for other in others:
        if [(e.slot, e.prompt) for e in other.entries] != slots:
            raise UserError(
                f"{other.folder} and {first.folder} have images for different prompts or seeds: "
                f"they come from different runs. {other.remedy}"
            )
        sizes = [{key: gallery.made[key] for key in ("resolution", "dtype")} for gallery in (first, other)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"{other.folder} and {first.folder} can't be compared: expected one resolution and dtype, found "
                f"{sizes[1]} and {sizes[0]}. Run `dvc repro`."
            )


def how_made(gallery: Gallery) -> dict[str, Any]:
    """Returns how a policy's images were made, as its manifest says: sampler, resolution, noise, prompts."""
    return {key: value for key, value in gallery.about.items() if key not in ("schema", "policy")}
