"""Our own JSON, edited or damaged, is one message that names the file and the stage; nothing else comes up."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.core.files import write_json
from diffalign.evaluation import scores
from diffalign.reporting import material, page
from diffalign.tracking import summary
from stages import report
from tests.helpers.project import make_params
from tests.helpers.report_inputs import POLICIES, SETTINGS, write_inputs
from tests.helpers.study_results import made, made_personal

FILES = {
    "metrics/evaluate.json": "evaluate",
    "metrics/ingest.json": "ingest",
    "metrics/study.json": "study",
    "metrics/personal.json": "study --only personal",
    "metrics/scores/oracle.json": "score@oracle",
    "metrics/scores/oracle.jsonl": "score@oracle",
    "curves/dpo.jsonl": "train@dpo",
    "images/sft/manifest.json": "generate@sft",
}
"""Each file with what makes it."""
CASES = 16
"""Damages of each file."""
WRONG: list[Any] = [None, "x", -1.5, [], {}, ["x"], {"x": 1}, True, 10**30]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A project with all files that the report reads."""
    folder = tmp_path_factory.mktemp("damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_inputs(folder)
        write_json(Path("metrics/study.json"), made())
        write_json(Path("metrics/personal.json"), made_personal())
        yield make_params(folder, POLICIES, report=SETTINGS)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All containers of a document with each of their keys or indices."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def edited(text: str, rng: random.Random) -> str:
    """One document with a value replaced, a key removed or added, or cut short."""
    kind = rng.choice(("replace", "replace", "remove", "add", "cut", "garble"))
    if kind == "cut":
        return text[: rng.randrange(1, len(text) - 1)]
    if kind == "garble":
        at = rng.randrange(len(text))
        return text[:at] + rng.choice('{}[],:"\x00') + text[at + 1 :]
    value = json.loads(text)
    container, key = rng.choice(list(places(value)))
    if kind == "replace":
        container[key] = copy.deepcopy(rng.choice([w for w in WRONG if type(w) is not type(container[key])]))
    elif kind == "remove":
        del container[key]
    else:
        value["surprise"] = rng.choice(WRONG)
    return json.dumps(value)


def damaged(name: str, text: str, rng: random.Random) -> str:
    """A file with one document, or one of its lines, edited."""
    if not name.endswith(".jsonl"):
        return edited(text, rng)
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    return "".join([*lines[:at], edited(lines[at].rstrip("\n"), rng) + "\n", *lines[at + 1 :]])


def read_all(values: Params) -> list[str]:
    """What evaluate, the report and the summary do with the files; the report and the tables."""
    for reward in values.rewards:
        scores.read(reward, [])
    return [page.render(material.read(report.settings(values))), str(summary.tables())]


def test_sound_files_are_read(project: Params) -> None:
    assert all(name in text for text in read_all(project) for name in project.policies)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_with_what_makes_it(project: Params, name: str) -> None:
    """An edit may be a sound file: another count, a figure less in a curve. Most aren't, and none is a traceback."""
    path, rng, refused = Path(name), random.Random(f"damage {name}"), 0
    named = name.removesuffix("/manifest.json")
    sound = path.read_text()
    try:
        for case in range(CASES):
            path.write_text(damaged(name, sound, rng))
            try:
                read_all(project)
            except UserError as error:
                # a character of a prompt in a manifest changed: it's a sound file, of another image than was scored
                unscored = named == "images/sft" and "the scores of these images (sft/" in str(error)
                assert unscored or (named in str(error) and FILES[name] in str(error)), f"case {case}: {error}"
                refused += 1
    finally:
        path.write_text(sound)
    assert refused >= CASES * 0.6


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_with_what_makes_it(project: Params, name: str) -> None:
    if name in ("metrics/study.json", "metrics/personal.json"):
        return  # without it there is no section
    path = Path(name)
    sound = path.read_text()
    path.unlink()
    try:
        with pytest.raises(UserError) as error:
            read_all(project)
    finally:
        path.write_text(sound)
    assert name in str(error.value) and FILES[name] in str(error.value)
