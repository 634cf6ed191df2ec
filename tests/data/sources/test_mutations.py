"""A thousand mutated inputs, over all sources: each gives exact data, an error that says what is wrong, or rejects."""

import json
import random
import shutil
from collections import Counter

import pytest

from diffalign.core.errors import UserError
from diffalign.data import images
from diffalign.data.comparisons.table import ANSWERS, SPLITS, answer_of
from diffalign.data.sources import source
from diffalign.data.sources.source import MAX_PROMPT, Candidate
from tests.helpers import mutations
from tests.helpers.published import FIXTURES

TOTAL = 1000
PNG = b"\0\0\0\rIHDR"
"""How every image of the fixtures goes on after its first 8 bytes, and no mutation of a value."""
LINES = (".csv", ".jsonl", ".txt")
"""Files that don't say where they end: cut between lines they are whole."""
EACH = -(-TOTAL // len(FIXTURES))


def read(kind, folder, settings):
    """Returns the entries; checks that each row has one disposition, and that candidates can be written down."""
    opened = source.load(kind, folder, settings)
    claims = list(opened.claims())
    assert all(isinstance(prompt, str) and split in SPLITS for prompt, split in claims)
    found = [entry for batch in opened.records() for entry in batch]
    assert len(found) == opened.rows > 0
    json.dumps(opened.about()).encode()
    for entry in found:
        if isinstance(entry, Candidate):
            check(entry)
        else:
            assert entry.reason in {**opened.reasons, **images.REASONS}
            f"{entry.file}{entry.detail}".encode()
    return found


def check(one):
    """A candidate has a prompt, images, one of the answers, which its share says too, and text throughout."""
    assert one.prompt.strip() and len(one.prompt) <= MAX_PROMPT
    assert isinstance(one.bytes_a, bytes) and isinstance(one.bytes_b, bytes)
    assert one.answer in ANSWERS and one.split in (None, *SPLITS)
    assert one.share is None or (0 <= one.share <= 1 and one.answer == answer_of(one.share))
    assert one.votes is None or 1 <= one.votes < 2**63
    texts = [one.prompt, one.file, one.rater_id, one.model_a, one.model_b, one.axis, one.ranking, one.rater_group]
    for text in texts:
        assert text is None or text.encode().decode() == text


def meaning(one):
    """What a candidate says: the prompt, and which of two images won or that none did."""
    shown = one.bytes_a, one.bytes_b
    return one.prompt, frozenset(shown), dict(zip("ab", shown, strict=True)).get(one.answer, one.answer)


@pytest.mark.parametrize("name", FIXTURES)
def test_mutated_inputs_give_exact_data_an_error_or_a_reject(name, tmp_path):
    kind, settings, write = FIXTURES[name]
    whole = tmp_path / "whole"
    originals = write(whole)
    entries = read(kind, whole, settings)
    said = {meaning(one) for one in entries if isinstance(one, Candidate)}
    outcomes = Counter()
    for seed in range(EACH):
        folder = tmp_path / "mutant"
        shutil.copytree(whole, folder)
        rng = random.Random(f"{name} {seed}")
        structural = seed % 2 == 0
        mutated = (mutations.of_structure if structural else mutations.of_bytes)(rng, folder)
        try:
            found = read(kind, folder, settings)
        except UserError as error:
            assert str(folder) in str(error), (seed, mutated, error)
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}: {mutated}") from error
        else:
            candidates = [one for one in found if isinstance(one, Candidate)]
            if mutated.startswith("cut") and not mutated.endswith(LINES):
                assert len(found) == len(entries), f"{name}, seed {seed}: {mutated}"
            if structural:
                exact(candidates, said, originals, f"{name}, seed {seed}: {mutated}")
            outcomes["read"] += 1
            outcomes["rejects"] += len(found) > len(candidates)
        shutil.rmtree(folder)
    assert outcomes["read"] > 3 and outcomes["refused"] + outcomes["rejects"] > 3, outcomes


def exact(candidates, said, originals, mutated):
    """After a change of structure images are whole, and at most the changed row's prompt has something new said of it.

    What ingest rejects doesn't count: images that aren't there, or what a mutation put in their place.
    """
    kept = [one for one in candidates if all(data[8:16] == PNG for data in (one.bytes_a, one.bytes_b))]
    assert {data for one in kept for data in (one.bytes_a, one.bytes_b)} <= originals, mutated
    new = {meaning(one)[0] for one in kept if meaning(one) not in said}
    assert len(new) <= 1, (mutated, new)
