"""GenEval (Ghosh et al. 2023, arXiv 2310.11513): 553 prompts with 6 tags."""

import json
from pathlib import Path

from diffalign.core.errors import UserError
from diffalign.data.prompts.prompt_set import Prompt, check, text_of

REMEDY = "It isn't on the hub: take prompts/evaluation_metadata.jsonl of github.com/djghosh13/geneval, put it there."
EXPECTED = {"prompts": 553, "tags": 6}


def load(folder: Path) -> list[Prompt]:
    """Returns the prompts of `evaluation_metadata.jsonl`, their tags as categories.

    Raises UserError where it's missing, isn't JSON lines, or has other counts.
    """
    path = folder / "evaluation_metadata.jsonl"
    found = []
    for number, line in enumerate(text_of(path, REMEDY).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
                found.append(Prompt(str(row["prompt"]), "geneval", str(row["tag"])))
            except (ValueError, KeyError, TypeError, RecursionError):
                raise UserError(f"{path}: line {number}: expected an object with prompt and tag. {REMEDY}") from None
    check(path, {"prompts": len(found), "tags": len({p.category for p in found})}, EXPECTED, REMEDY)
    return found
