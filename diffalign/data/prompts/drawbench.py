"""DrawBench (Saharia et al. 2022, arXiv 2205.11487): 200 prompts, as HPDv2 publishes them, without categories."""

from pathlib import Path

from diffalign.core.home import COMMAND
from diffalign.data.prompts import text_lists
from diffalign.data.prompts.prompt_set import Prompt

REMEDY = f"Fetch it: {COMMAND} fetch drawbench"
COUNT = 200


def load(folder: Path) -> list[Prompt]:
    """Returns the prompts of `drawbench.json`; UserError where it's missing or has another number."""
    return [Prompt(text, "drawbench") for text in text_lists.read(folder / "drawbench.json", COUNT, REMEDY)]
