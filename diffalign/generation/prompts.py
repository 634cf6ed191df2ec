"""Chooses the prompts that images are made for: some of each set, those of the data's splits among them."""

import sys
from collections.abc import Mapping, Sequence

import pyarrow as pa

from diffalign.core.errors import UserError
from diffalign.data.comparisons import table as comparisons
from diffalign.data.prompts import prompt_set
from diffalign.data.prompts.prompt_set import Prompt
from diffalign.generation.gallery import PromptCount


def chosen(table: pa.Table, asked: Mapping[str, int | None]) -> list[Prompt]:
    """Returns the first prompts by hash of each set, so many as asked (None: all); fewer, said on stderr, if it's less.

    `table` has the comparisons, whose splits are sets; see `prompt_set.load` for the others. Raises UserError where a
    set has no prompts.
    """
    found = []
    for name, count in asked.items():
        split = next((s for s in comparisons.SPLITS if s == name), None)
        whole = [Prompt(text, name) for text in comparisons.prompts(table, split)] if split else prompt_set.load(name)
        if not whole:
            raise UserError(
                f"data/comparisons has no prompts in the {name} split (generate.prompts): nothing to make images for. "
                "Raise data.test or data.validation, or name a file so; see metrics/ingest.json."
            )
        if count is not None and len(whole) < count:
            what = f"the {name} split" if split else name
            sys.stderr.write(f"generate: {what} has {len(whole)} prompts, {count} were asked for: all are used\n")
        found += whole[:count] if split else prompt_set.first(whole, count)
    return found


def counted(prompts: Sequence[Prompt], asked: Mapping[str, int | None], table: pa.Table) -> list[PromptCount]:
    """Counts the prompts of each set, and those that training prompts repeat; the latter are said on stderr."""
    seen = prompt_set.overlap(prompts, comparisons.prompts(table, "train"))
    sizes = dict.fromkeys(asked, 0)
    for prompt in prompts:
        sizes[prompt.set] += 1
    for name, count in seen.items():
        if count:
            sys.stderr.write(
                f"generate: {count} of {sizes[name]} prompts of {name} are training prompts, too: what a policy shows "
                f"on them flatters it. data.drop_prompts_of: [{name}] keeps a published set out of training\n"
            )
    return [
        PromptCount(name=name, prompts=sizes[name], asked=count, in_training=seen[name])
        for name, count in asked.items()
    ]
