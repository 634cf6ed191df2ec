"""export: a policy in the form that other programs load: a pipeline, one checkpoint, or its LoRA."""

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diffalign.commands import loading
from diffalign.commands.loading import Place
from diffalign.core import publishing, records
from diffalign.core.errors import UserError
from diffalign.core.files import sha256_file
from diffalign.core.home import COMMAND
from diffalign.data.hub import origins
from diffalign.data.hub.download import gigabytes
from diffalign.models import export, single_files
from diffalign.models import family as families
from diffalign.models.layouts import original
from diffalign.models.layouts.modelspec import About
from diffalign.models.single_files import Policy
from diffalign.reporting import card_file, card_text
from diffalign.reporting.card_file import Card

if TYPE_CHECKING:
    from diffalign.config.params import Params

OUT, POLICIES, MARK = Path("exports"), Path("models/policies"), "export.json"
"""MARK tells a folder that an export made, and that the next one may replace."""
LAYOUTS = ("pipeline", "single-file", "lora", "kohya")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
SUFFIX = ".safetensors"
COMPARISONS = Path("data/comparisons/comparisons.parquet")
CARD = "`dvc repro report` writes it; then export again."


class Mark(records.Record):
    """export.json: what an export made."""

    policy: str
    layout: str
    dtype: str | None
    """None: as stored."""


@dataclass(frozen=True)
class Wanted:
    """An export: `layout` one of LAYOUTS, `dtype` one of DTYPES or None, which keeps each tensor's."""

    name: str
    layout: str
    dtype: str | None

    @property
    def file(self) -> str:
        """Returns the name of the layout's file."""
        return f"{self.name}{SUFFIX}"


def run(params: "Params", wanted: Wanted, out: Path | None) -> str:
    """Exports a policy into a folder, or one file where `out` ends in .safetensors; returns what to tell the user.

    Raises UserError where the policy isn't there or hasn't what the layout needs, and where `out` holds something that
    no export made.
    """
    policy = found(params, wanted)
    card = card_file.read(wanted.name, policy.folder)
    if out is not None and out.suffix == SUFFIX:
        if wanted.layout == "pipeline":
            raise UserError(f"--out: a pipeline is a folder, got {out}; one file: --to single-file")
        if out.is_dir():
            raise UserError(f"--out: expected a file's path, found a folder at {out}")
        write_file(policy, wanted, out, about(params, policy, wanted, card))
        return told(policy, wanted, out, card)
    folder = out or OUT / wanted.name / wanted.layout
    check_free(folder)
    sys.stderr.write(f"export: writes {wanted.name} as {wanted.layout} to {folder}\n")
    with publishing.replacing(folder) as new:
        fill(params, policy, wanted, new, card, place_of(policy, wanted, str(folder), card))
    return told(policy, wanted, folder if wanted.layout == "pipeline" else folder / wanted.file, card)


def found(params: "Params", wanted: Wanted) -> Policy:
    """Returns the policy that is exported; UserError where there is none, or no LoRA though the layout is one."""
    if wanted.layout not in LAYOUTS:
        raise UserError(f"--to: expected one of {', '.join(LAYOUTS)}, got {wanted.layout!r}")
    if wanted.dtype not in (None, *DTYPES):
        raise UserError(f"--dtype: expected one of {', '.join(DTYPES)}, got {wanted.dtype!r}")
    if wanted.name not in params.policies:
        raise UserError(f"export: expected one of the policies {', '.join(params.policies)}, got {wanted.name!r}")
    folder = POLICIES / wanted.name
    if not folder.is_dir():
        raise UserError(f"export: {folder} is missing: {wanted.name} isn't trained yet. Run: dvc repro")
    policy = Policy(params.model.family, Path(params.model.path), folder)
    adapter = policy.meta["adapter"]
    if wanted.layout in ("lora", "kohya") and adapter != "lora":
        raise UserError(single_files.no_lora(wanted.name, adapter))
    return policy


def check_free(folder: Path) -> None:
    """Raises UserError where a folder holds something that no export made."""
    if folder.exists() and not (folder.is_dir() and ((folder / MARK).is_file() or not any(folder.iterdir()))):
        raise UserError(f"--out: {folder} holds something that no export made. Name another place, or remove it.")
    publishing.check_target(folder)


def fill(params: "Params", policy: Policy, wanted: Wanted, folder: Path, card: Card | None, place: Place) -> None:
    """Writes an export's files into an empty folder: the layout's, and the model card where there is one."""
    if wanted.layout == "pipeline":
        export.write_pipeline(policy.family, policy.model, policy.folder, folder)
        if wanted.dtype:
            export.cast_folder(folder, DTYPES[wanted.dtype])
    else:
        write_file(policy, wanted, folder / wanted.file, about(params, policy, wanted, card))
    if card is not None:
        card_text.write(card, folder, loading.markdown(wanted.layout, place))
    records.write(folder / MARK, Mark(policy=wanted.name, layout=wanted.layout, dtype=wanted.dtype))


def write_file(policy: Policy, wanted: Wanted, file: Path, described: About) -> None:
    """Writes the one file of a layout."""
    dtype = DTYPES[wanted.dtype] if wanted.dtype else None
    if wanted.layout == "lora":
        single_files.write_lora(policy, file, dtype)
    elif wanted.layout == "kohya":
        single_files.write_kohya(policy, file, dtype, described)
    else:
        single_files.write_single_file(policy, file, dtype, described)


def about(params: "Params", policy: Policy, wanted: Wanted, card: Card | None) -> About:
    """Describes the policy for a file's metadata; its date is that of its policy.json."""
    written = datetime.fromtimestamp(int((policy.folder / "policy.json").stat().st_mtime), UTC)
    known = origins.of(policy.meta["init"]).license or origins.of(policy.model).license
    return About(
        title=wanted.name,
        date=written.strftime("%Y-%m-%dT%H:%M:%SZ"),
        resolution=params.precompute.resolution,
        description="" if card is None else card_text.summary(card),
        license=None if known is None else known.name or known.id,
        own=own_words(card),
    )


def own_words(card: Card | None) -> dict[str, str]:
    """Returns what is known of a policy, for the metadata: the code's commit, the data, the win rates."""
    found = {} if card is None else {"commit": card.commit, "method": card.method, "base": card.base_repo or card.base}
    if COMPARISONS.is_file():
        found["data_sha256"] = sha256_file(COMPARISONS)
    for rate in card.win_rates if card else ():
        found[f"win_rate.{rate.judge}.{rate.set}"] = (
            f"{rate.rate:.4f} {card_text.bounds(rate)} over {rate.baseline}".replace("  ", " ")
        )
    return found


def place_of(policy: Policy, wanted: Wanted, folder: str, card: Card | None, hub: bool = False) -> Place:
    """Describes where an export lies, for the lines that load it."""
    base = card.base_repo if hub and card and card.base_repo else str(policy.model)
    pipeline = families.find(policy.family).pipeline
    return Place(folder, wanted.file, pipeline, base, hub)


def told(policy: Policy, wanted: Wanted, target: Path, card: Card | None) -> str:
    """Returns where the export is, its size, how to load it, what is missing, and the next step."""
    size = sum(file.stat().st_size for file in (target, *target.rglob("*")) if file.is_file())
    folder = target if wanted.layout == "pipeline" else target.parent
    place = Place(str(folder), target.name, families.find(policy.family).pipeline, str(policy.model))
    notes = [
        f"{wanted.name} as {wanted.layout}: {target}, {gigabytes(size)}",
        loading.plain(wanted.layout, place),
    ]
    if wanted.layout in ("single-file", "kohya") and not original.find(policy.family).known(policy.source):
        notes.append("  note: UIs know Stable Diffusion's own sizes only; this model has another, so none will load it")
    if card is None:
        notes.append(f"  note: without a model card: {card_file.CARDS / wanted.name} has none of these weights. {CARD}")
    return "\n".join([*notes, f"next: {COMMAND} push OWNER/NAME --policy {wanted.name}"])
