"""push: exports a policy and uploads it with its model card to the hub; after a kill, only what is missing."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.commands import export, loading
from diffalign.commands.export import Wanted
from diffalign.core import files, publishing
from diffalign.core.errors import UserError
from diffalign.data.hub import upload
from diffalign.models.single_files import Policy
from diffalign.reporting import card_file
from diffalign.reporting.card_file import Card

if TYPE_CHECKING:
    from diffalign.config.params import Params

HUB = "https://huggingface.co"


def run(params: "Params", repo: str, name: str | None, layout: str | None, dtype: str | None, private: bool) -> str:
    """Uploads a policy to the repository OWNER/NAME and returns what to tell the user.

    `name` None: the first trained policy. `layout` None: lora where the policy is one, else pipeline. Raises UserError
    without a token, without a model card of these weights, and for what the hub refuses.
    """
    upload.check(repo)
    wanted = Wanted(name or first_trained(params), layout or "pipeline", dtype)
    policy = export.found(params, wanted)
    if layout is None and policy.meta["adapter"] == "lora":
        wanted = Wanted(wanted.name, "lora", dtype)
    card = card_file.read(wanted.name, policy.folder)
    if card is None:
        raise UserError(
            f"push: expected a model card of these weights in {card_file.CARDS / wanted.name}, found none: nobody "
            "would know what they are. Write it: dvc repro report"
        )
    place = export.place_of(policy, wanted, repo, card, hub=True)
    work = files.RUNS / f"push-{wanted.name}"
    work.mkdir(parents=True, exist_ok=True)
    with files.lock(work):
        folder = exported(params, policy, wanted, work, card, place)
        address = upload.upload(repo, folder, private, f"{wanted.name}: {card.method}, by diffalign")
        shutil.rmtree(work)
    unknown = "" if card.license else "\nnote: the base's licence isn't known here: state yours on the page"
    return (
        f"{wanted.name} as {wanted.layout} is at {HUB}/{repo}, commit {address}\n"
        f"{loading.plain(wanted.layout, place)}{unknown}\nnext: look at the card: {HUB}/{repo}"
    )


def first_trained(params: "Params") -> str:
    """Returns the name of the first trained policy, which is the report's; UserError where none is trained."""
    found = next((name for name, policy in params.policies.items() if policy.method != "none"), None)
    if found is None:
        raise UserError("push: expected a trained policy in params.yaml, found none. Name one: --policy NAME")
    return found


def exported(params: "Params", policy: Policy, wanted: Wanted, work: Path, card: Card, place: loading.Place) -> Path:
    """Returns the folder of the export in `work`; one that a killed push left is used again."""
    about = [wanted.name, wanted.layout, wanted.dtype, place.folder, card.model_dump(mode="json")]
    folder = work / files.sha256_bytes(files.canonical_json(about).encode())[:16]
    for other in work.iterdir():
        if other != folder and other.name != "lock":
            files.remove(other)
    if not folder.is_dir():
        sys.stderr.write(f"push: exports {wanted.name} as {wanted.layout}\n")
        with publishing.replacing(folder) as new:
            export.fill(params, policy, wanted, new, card, place)
    return folder
