"""PartiPrompts (Yu et al. 2022, arXiv 2206.10789): 1,632 prompts in 12 categories with 11 challenges."""

from pathlib import Path

from diffalign.core.home import COMMAND
from diffalign.data.prompts import own
from diffalign.data.prompts.prompt_set import Prompt, check, text_of

REMEDY = f"Fetch it: {COMMAND} fetch parti"
EXPECTED = {"prompts": 1632, "categories": 12, "challenges": 11}


def load(folder: Path) -> list[Prompt]:
    """Returns the prompts of `PartiPrompts.tsv` with their categories; it's read without quoting.

    Raises UserError where it's missing or has other counts.
    """
    path = folder / "PartiPrompts.tsv"
    lines = [line.removesuffix("\r") for line in text_of(path, REMEDY).split("\n") if line.strip()]
    found = own.tsv(path, lines, "parti")
    challenges = {line.split("\t")[2] for line in lines[1:]} if lines[0].count("\t") > 1 else set()
    counts = {"prompts": len(found), "categories": len({p.category for p in found}), "challenges": len(challenges)}
    check(path, counts, EXPECTED, REMEDY)
    return found
