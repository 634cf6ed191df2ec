"""The README and docs/: links lead somewhere, the tree is today's, and the commands work."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.clone import clone, environment, run
from tests.helpers.project import REPO
from tools import tree

PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]
TEXTS = {path: path.read_text() for path in PAGES}
NOT_RUN = {"gated", "installs", "launcher", "needs-network", "hours", "slow", "remote", "serves", "gpu", "yours"}
NOT_RUN |= {"tutorial"}  # test_tutorial.py runs these
"""Words behind `sh` that say why a test doesn't run a block; it checks the names and options of its commands."""
BLOCK = re.compile(r"^```sh ?([\w-]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[tuple[str, str]]:
    """Pairs of (why it isn't run or '', command) of a page's shell blocks."""
    return [
        (why, line.split(" #")[0].strip())
        for why, block in BLOCK.findall(text)
        for line in block.splitlines()
        if line.strip() and not line.startswith("#")
    ]


def test_the_readme_is_two_screens() -> None:
    assert len(TEXTS[REPO / "README.md"].splitlines()) <= 80


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPO)))
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[page]):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}, target


def test_the_readme_links_every_page() -> None:
    linked = {(REPO / target).resolve() for target in re.findall(r"\]\((docs/[^)#]+)\)", TEXTS[REPO / "README.md"])}
    assert set((REPO / "docs").glob("*.md")) <= linked


def test_every_decision_is_in_their_list() -> None:
    folder = REPO / "docs" / "decisions"
    listed = re.findall(r"\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text())
    assert sorted(listed) == sorted(path.name for path in folder.glob("[0-9]*.md"))


def test_the_tree_is_up_to_date() -> None:
    assert tree.page(tree.PAGE.read_text()) == tree.PAGE.read_text(), "mend it: python -m tools.tree --write"


def test_every_module_of_the_tree_says_what_it_is() -> None:
    assert not [line for line in tree.tree().splitlines() if not re.fullmatch(r" *\S+\s{2,}\S.*", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPO)))
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    assert {why for why, _ in commands(TEXTS[page])} <= NOT_RUN | {""}


def test_every_page_has_commands_that_a_test_runs() -> None:
    """But for the list of decisions; extending.md's own code and the tutorial have tests of their own."""
    pages = {path for path in (REPO / "docs").glob("*.md") if path.name not in ("extending.md", "tutorial.md")}
    assert not [path.name for path in pages if not [line for why, line in commands(TEXTS[path]) if not why]]


def named() -> set[tuple[str, ...]]:
    """The command line's commands that the pages name, each with the long options that stand beside it."""
    text = "\n".join(TEXTS.values())
    found = re.findall(r"python pipeline\.py ([a-z][a-z-]*)((?: [^`\n#]*)?)", text)
    return {(name, *re.findall(r"--[a-z-]+", rest)) for name, rest in found}


def test_commands_and_options_that_are_named_exist() -> None:
    asked: dict[str, set[str]] = {}
    for name, *options in named():
        asked.setdefault(name, set()).update(options)
    code = (
        "import json, sys; from typer.testing import CliRunner; from pipeline import app\n"
        "shown = {name: CliRunner().invoke(app, [name, '--help']) for name in sys.argv[1:]}\n"
        "print(json.dumps({name: [one.exit_code, one.output] for name, one in shown.items()}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *asked], cwd=REPO, capture_output=True, text=True, check=True)
    for name, (exit_code, text) in json.loads(done.stdout).items():
        assert exit_code == 0, f"{name}: {text}"
        assert not [option for option in asked[name] if option not in text], f"{name} {asked[name]}"


def test_make_targets_that_are_named_exist() -> None:
    code = "\n".join(re.findall(r"`[^`\n]*`|^ {4}.*$|^make .*$", "\n".join(TEXTS.values()), re.MULTILINE))
    targets = set(re.findall(r"\bmake ([a-z]+)\b", code))
    assert targets and targets <= set(re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(), re.MULTILINE))


def test_environment_variables_are_documented() -> None:
    folders = ("arena", "diffalign", "flows", "stages", "studies")
    sources = [path.read_text() for name in folders for path in (REPO / name).rglob("*.py")]
    used = {name for text in sources for name in re.findall(r"\bDIFFALIGN_[A-Z_]+\b", text)}
    used -= {"DIFFALIGN_LAUNCH", "DIFFALIGN_UID"}  # a flow sets one for its stages, Docker's compose file the other
    documented = set(re.findall(r"\bDIFFALIGN_[A-Z_]+\b", TEXTS[REPO / "docs" / "operations.md"]))
    assert used <= documented
    assert documented <= used


def test_modules_that_are_named_exist() -> None:
    for module in set(re.findall(r"python -m ((?:tools|benchmarks)\.\w+)", "\n".join(TEXTS.values()))):
        assert (REPO / f"{module.replace('.', '/')}.py").is_file(), module


def test_test_files_that_scripts_name_exist() -> None:
    text = (REPO / "Makefile").read_text() + (REPO / ".ci" / "run").read_text()
    named = set(re.findall(r"tests/[\w/]+\.py", text))
    assert named and not [name for name in named if not (REPO / name).is_file()]


def test_the_workflow_is_one(tmp_path: Path) -> None:
    """By GitHub's own schema; it calls the script that runs everywhere."""
    workflow = REPO / ".github" / "workflows" / "ci.yml"
    check = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [str(check), "--builtin-schema", "vendor.github-workflows", str(workflow)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (job,) = yaml.safe_load(workflow.read_text())["jobs"].values()
    assert "bash .ci/run" in [step.get("run") for step in job["steps"]]


def test_the_citation_names_the_paper() -> None:
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    assert "arXiv:2311.12908" in json.dumps(citation["references"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project in which everything has run once."""
    folder = clone(tmp_path_factory.mktemp("docs") / "clone")
    run("dvc", "repro", cwd=folder)
    return folder


@pytest.mark.nightly
def test_the_pages_commands_run(finished: Path) -> None:
    """In a small project in which everything has run once, page by page and in order, by the shell as a reader does."""
    failed = []
    for page in PAGES:
        for why, command in commands(TEXTS[page]):
            if why:
                continue
            done = subprocess.run(
                ["bash", "-c", command], cwd=finished, env=environment(), capture_output=True, text=True, timeout=600
            )
            if done.returncode:
                failed.append(f"{page.name}: {command}\n{done.stdout}{done.stderr}")
    assert not failed, "\n\n".join(failed)
