"""The README's tree has one line for each file of the project, and its commands exist."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PACKAGES = ("diffalign", "flows", "stages", "studies")
FOLDERS = ("assets", "tests")  # one line for the folder


def files() -> set[str]:
    """The project's files: in git, or new and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name in listed if (ROOT / name).exists()}


def tree() -> dict[str, str]:
    """Path -> what the README's tree says of it; a folder's path ends in a slash."""
    block = README.split("## The tree")[1].split("```")[1]
    entries, folders = {}, [""]
    for line in block.strip("\n").splitlines():
        match = re.fullmatch(r"( *)(\S+)\s{2,}(.+)", line)
        assert match, f"expected 'name  what it is', got {line!r}"
        depth = len(match[1]) // 2
        path = folders[depth] + match[2]
        entries[path] = match[3]
        if match[2].endswith("/"):
            folders[depth + 1 :] = [path]
    return entries


def test_every_file_of_the_packages_has_a_line() -> None:
    entries = tree()
    missing = [
        name
        for name in files()
        if name not in entries
        and not name.endswith(("__init__.py", ".gitkeep"))
        and not name.startswith((*(f"{folder}/" for folder in FOLDERS), "docs/"))
        and not name.startswith(".")
        and name not in ("README.md", "dvc.lock")
    ]
    assert not missing


def test_every_line_is_of_a_file_that_is_there() -> None:
    gone = [path for path in tree() if not (ROOT / path).exists()]
    assert not gone


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_in_the_tree(package: str) -> None:
    assert f"{package}/" in tree()


def test_commands_of_the_readme_exist() -> None:
    commands = set(re.findall(r"python pipeline\.py ([a-z][a-z-]*)", README + (ROOT / "CONTRIBUTING.md").read_text()))
    source = (ROOT / "pipeline.py").read_text()
    known = {name.replace("_", "-") for name in re.findall(r"@app\.command\(\)\ndef (\w+)", source)}
    assert commands <= known
    code = "\n".join(re.findall(r"`[^`]*`|^    .*$", README, re.MULTILINE))
    targets = set(re.findall(r"\bmake ([a-z]+)\b", code))
    assert targets <= set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_environment_variables_are_documented() -> None:
    sources = [path.read_text() for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    used = {name for text in sources for name in re.findall(r"\bDIFFALIGN_[A-Z_]+\b", text)}
    used -= {"DIFFALIGN_LAUNCH", "DIFFALIGN_UID"}  # a flow's mark on its stages; docker/compose.yaml's user
    assert used <= set(re.findall(r"\bDIFFALIGN_[A-Z_]+\b", README))


def test_the_picture_is_there() -> None:
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file()
