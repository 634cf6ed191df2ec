"""Shares of held-out prompts for small data: enough prompts in each split, by the same hash as ingest's."""

import pytest

from diffalign.data import splits


@pytest.mark.parametrize("count", [9, 12, 40, 400])
def test_each_split_has_enough_prompts(count):
    prompts = [f"prompt {n}" for n in range(count)]
    validation, test = splits.shares_for(prompts, 3, 0.05, 0.05)
    assert validation >= 0.05 and test >= 0.05
    of = splits.PromptSplits((), validation, test)
    found = [of.of(prompt) for prompt in prompts]
    assert min(found.count(split) for split in ("train", "validation", "test")) >= 3
    if count == 400:
        assert (validation, test) == (0.05, 0.05)


def test_too_few_prompts():
    with pytest.raises(ValueError, match="at least 9 prompts, got 8"):
        splits.shares_for([str(n) for n in range(8)], 3, 0.05, 0.05)
