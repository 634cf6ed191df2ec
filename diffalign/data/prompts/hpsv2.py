"""HPSv2's benchmark (Wu et al. 2023, arXiv 2306.09341): 3,200 prompts, 800 in each of four styles."""

from pathlib import Path

from diffalign.core.home import COMMAND
from diffalign.data.prompts import text_lists
from diffalign.data.prompts.prompt_set import Prompt

REMEDY = f"Fetch it: {COMMAND} fetch hpsv2_prompts"
STYLES, EACH = ("anime", "concept-art", "paintings", "photo"), 800


def load(folder: Path) -> list[Prompt]:
    """Returns the prompts of the four files, the style as category; UserError where one is missing or isn't so."""
    return [
        Prompt(text, "hpsv2", style)
        for style in STYLES
        for text in text_lists.read(folder / f"{style}.json", EACH, REMEDY)
    ]
