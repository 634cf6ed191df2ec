"""Writes the tree of the project's files into docs/architecture.md, a line each, from their docstrings.

`python -m tools.tree --write` writes it; without --write it fails where the page isn't up to date.
"""

import argparse
import ast
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PAGE = REPO / "docs" / "architecture.md"
BEGIN, END = "<!-- tree: python -m tools.tree --write -->", "<!-- /tree -->"
COLUMN = 30
"""Where the explanations begin."""
OTHERS = {
    "params.yaml": "every tunable; the default runs on a CPU",
    "dvc.yaml": "the DAG",
    "prefect.yaml": "the scheduled deployments",
    "presets/": "params.yaml for real work",
    "assets/": "the embedded default: the tiny model, its comparisons",
    "benchmarks/": "claims of speed that anyone can rerun; results/ has what was measured",
    "docker/": "an image and three services",
    "docs/": "these pages; decisions/ says why things are as they are",
    "tests/": "by package; e2e/ for the whole, helpers/ for what tests share",
}
"""Explained by hand: what isn't a Python package."""
FIRST = [
    "pipeline.py",
    "params.yaml",
    "dvc.yaml",
    "prefect.yaml",
    "presets/",
    "arena/",
    "flows/",
    "studies/",
    "stages/",
    "diffalign/",
]
LAYERS = (
    *("core", "config", "runtime", "diffusion", "models", "data", "reference", "generation", "shapes", "rewards"),
    *("evaluation", "methods", "monitoring", "planning", "training", "reward_training", "reporting", "tracking"),
    "commands",
)
"""The library's packages from the ground up."""
PROPER = ("Parquet", "Stable", "Diffusion-DPO", "Diffusion-KTO", "Prefect")
"""First words that keep their capital."""


def tracked() -> list[str]:
    """Returns the paths of the project's files: in git, or new and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted({name for name in listed if (REPO / name).is_file()})


def summary(path: Path) -> str:
    """Returns a module's first docstring line, without its full stop, in lower case where it begins with a word."""
    line = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0].rstrip(".")
    first = line.split(" ")[0].strip("-,.:")
    return line if first in PROPER or not first[1:].islower() else line[:1].lower() + line[1:]


def lines(folder: str, files: list[str], depth: int) -> list[str]:
    """Returns the lines of a package's folders and modules, folders after modules."""
    inside = [name for name in files if name.startswith(folder) and name.endswith(".py")]
    modules = [name for name in inside if "/" not in name[len(folder) :] and not name.endswith("__init__.py")]
    packages = sorted(
        {folder + name[len(folder) :].split("/")[0] + "/" for name in inside if "/" in name[len(folder) :]}
    )
    if folder == "diffalign/":
        packages = [f"diffalign/{name}/" for name in LAYERS if f"diffalign/{name}/" in packages]
    found = [entry(name, depth, summary(REPO / name)) for name in modules]
    for package in packages:
        found.append(entry(package, depth, summary(REPO / package / "__init__.py")))
        found += lines(package, files, depth + 1)
    return found


def entry(path: str, depth: int, text: str) -> str:
    """Returns a line of the tree."""
    name = "  " * depth + path.rstrip("/").rsplit("/", 1)[-1] + ("/" if path.endswith("/") else "")
    return f"{name:<{COLUMN}}{text}" if len(name) < COLUMN - 1 else f"{name}  {text}"


def tree() -> str:
    """Returns the whole tree as text."""
    files = tracked()
    found = []
    for path in [*FIRST, *(name for name in ["tools/", *OTHERS] if name not in FIRST)]:
        if path in OTHERS:
            found.append(entry(path, 0, OTHERS[path]))
        else:
            init = REPO / path / "__init__.py" if path.endswith("/") else REPO / path
            found.append(entry(path, 0, summary(init)))
            found += lines(path, files, 1) if path.endswith("/") else []
    return "\n".join(found)


def page(text: str) -> str:
    """Returns the page with the tree as it is now."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n```\n{tree()}\n```\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Writes or compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    text = PAGE.read_text()
    new = page(text)
    if parser.parse_args().write:
        PAGE.write_text(new)
    elif new != text:
        sys.exit("docs/architecture.md isn't up to date: python -m tools.tree --write")


if __name__ == "__main__":
    main()
