"""docs/extending.md: its code, put where it says, adds an entry to every axis, and one run of the DAG uses them all."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from diffalign.core import yaml_file
from tests.helpers import pickapic
from tests.helpers.one_process import DRIVER
from tests.helpers.project import REPO, make_params
from tests.helpers.tiny import make_model

BLOCK = re.compile(
    r"^`([^`\n]+)`, (new|at its end|merged|changed|a copy of `[^`\n]+`, changed):\n\n```\w+\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
"""A block of code in the page: where it goes, how, and the code."""


def blocks() -> list[tuple[str, str, str]]:
    """Reads the page's blocks, in order."""
    return BLOCK.findall((REPO / "docs/extending.md").read_text())


def put(folder: Path, name: str, how: str, code: str) -> None:
    """Does to a file what the page says."""
    file = folder / name
    if how == "new":
        assert not file.exists(), f"{name} is there already"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    elif how == "at its end":
        file.write_text(file.read_text() + ("\n\n" if name.endswith(".py") else "\n") + code)
    elif how == "merged":
        file.write_text(yaml_file.dump(merged(yaml_file.read(file), YAML(typ="safe").load(code))))
    else:
        if how != "changed":
            file.write_text((folder / how.split("`")[1]).read_text())
        lines = [(line[:1], line[1:]) for line in code.splitlines()]
        old, new = ("".join(f"{text}\n" for sign, text in lines if sign != other) for other in "+-")
        assert file.read_text().count(old) == 1, f"{name} has no longer, or not once:\n{old}"
        file.write_text(file.read_text().replace(old, new))


def merged(old: Any, new: Any) -> Any:
    """Params with others put over them, mapping by mapping; an empty one replaces."""
    if not isinstance(old, dict) or not isinstance(new, dict) or not new:
        return new
    return old | {key: merged(old.get(key), value) for key, value in new.items()}


def run(*command: str, cwd: Path) -> str:
    """Runs a command in a tree; returns its output, both streams."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(cwd),
        "DIFFALIGN_TRACKING": "off",
    }
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def write_votes(folder: Path, count: int) -> None:
    """Writes preference data as the page's source reads it: votes.jsonl beside the images."""
    (folder / "images").mkdir(parents=True)
    with open(folder / "votes.jsonl", "w") as file:
        for i, row in enumerate(pickapic.rows(count)):
            for side in "01":
                (folder / f"images/{i}-{side}.png").write_bytes(row[f"jpg_{side}"])
            vote = {"prompt": row["caption"], "a": f"images/{i}-0.png", "b": f"images/{i}-1.png"}
            vote |= {
                "answer": "ab"[i % 2],
                "rater": f"rater {i % 3}",
                "split": ("validation", "test", "train", "train")[i % 4],
            }
            file.write(json.dumps(vote) + "\n")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this tree with every block of the page in it, a tiny model and tiny data, and a run of its DAG."""
    folder = tmp_path_factory.mktemp("extending") / "tree"
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=REPO, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.strip("\0").split("\0"):
        if not name.startswith(("assets/", "tests/")) and (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((REPO / name).read_bytes())
    make_model(folder / "model")
    write_votes(folder / "raw", 40)
    make_params(folder, {"base": {"method": "none"}}, probe={"every": 4, "pairs": 4, "draws": 2})
    for block in blocks():
        put(folder, *block)
    run("git", "init", "-q", cwd=folder)
    run(sys.executable, "-m", "tools.closure", "--write", cwd=folder)
    run(sys.executable, "-c", DRIVER, cwd=folder)
    return folder


def test_the_page_has_a_section_with_code_for_every_axis() -> None:
    text = (REPO / "docs/extending.md").read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    bare = [part.splitlines()[0] for part in sections[1:] if not BLOCK.search(part)]
    assert bare == ["What runs again", "A prompt set", "A rule of sampling", "A preset"]


def test_nobody_elses_stage_depends_on_the_new_code(tree: Path) -> None:
    """dvc.yaml has the lines that the page puts there, and the code of the new stage; no other stage's line changed."""
    old, new = (yaml_file.read(folder / "dvc.yaml")["stages"] for folder in (REPO, tree))
    new["train"]["do"]["params"].remove("probe.winner_moved")
    loads_any = {"audit", "feedback", "label", "evaluate", "rules"}  # by a reward's name in params
    for name in loads_any & set(new):
        stage = new[name].get("do", new[name])
        stage["deps"] = [file for file in stage["deps"] if file != "diffalign/rewards/brightness.py"]
    assert {name: stage for name, stage in new.items() if name != "exposure"} == old
    assert "stages/exposure.py" in new["exposure"]["deps"]
    assert "diffalign/core/files.py" in new["exposure"]["deps"]


def test_dvc_finds_every_dependency_and_out(tree: Path) -> None:
    run("dvc", "init", "-q", "--force", cwd=tree)
    run("dvc", "commit", "-q", "--force", cwd=tree)
    assert "up to date" in run("dvc", "status", cwd=tree)


def test_each_entry_did_its_work(tree: Path) -> None:
    assert (tree / "data/comparisons/comparisons.parquet").is_file()
    scores = [json.loads(line) for line in (tree / "metrics/scores/brightness.jsonl").read_text().splitlines()]
    assert {line["policy"] for line in scores} == {"base", "simpo"}
    manifest = json.loads((tree / "images/simpo/manifest.json").read_text())
    assert manifest["sampler"]["name"] == "ddim_quadratic"
    policy = json.loads((tree / "models/policies/simpo/policy.json").read_text())
    assert policy["method"] == "simpo"
    assert [alarm["name"] for alarm in policy["alarms"]].count("winner_moved") == 1
    shards = json.loads((tree / "data/shards/manifest.json").read_text())
    assert shards["fingerprint"]["family"] == "sd15_zeros"


def test_the_report_shows_them(tree: Path) -> None:
    page = (tree / "reports/report.html").read_text()
    assert "SimPO" in page
    assert "<h2>Brightness</h2>" in page
    assert "winners&#39; errors have moved by" in page
    assert "brightness" in page


def test_a_claim_is_listed_with_its_run(tree: Path) -> None:
    listing = run(sys.executable, "pipeline.py", "study", "--list", cwd=tree)
    assert "run: DPO, no warm-up" in listing
    assert "Without warm-up DPO is as good" in listing


def test_a_preset_is_a_copy(tree: Path) -> None:
    (tree / "presets/mine.yaml").write_bytes((tree / "params.yaml").read_bytes())
    assert "mine.yaml" in run(sys.executable, "pipeline.py", "preset", "mine", cwd=tree)


def test_the_pages_code_is_clean(tree: Path) -> None:
    code = [name for name, how, _ in blocks() if name.endswith(".py")]
    run("ruff", "check", *code, cwd=tree)
    run("ruff", "format", "--check", *code, cwd=tree)
    run("lint-imports", "--no-cache", cwd=tree)
