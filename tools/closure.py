"""The code that each stage depends on: what its file imports, directly or not, of this project.

`python -m tools.closure --write` writes it into dvc.yaml; without --write it says what differs.
"""

import argparse
import ast
import io
import re
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

REPO = Path(__file__).resolve().parents[1]
PACKAGES = ("diffalign", "stages")
MODULE = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
"""A string that is a module's name is an import too: the axes are dicts of names."""


def closure(stage: str, root: Path = REPO) -> list[str]:
    """Files that `stages/STAGE.py` needs to run, itself included, sorted; relative to the root."""
    found: set[str] = set()
    waiting = ["stages", f"stages.{stage}"]
    while waiting:
        name = waiting.pop()
        if (path := file_of(name, root)) and path not in found:
            found.add(path)
            waiting += imports(name, (root / path).read_text(), path.endswith("/__init__.py"))
    return sorted(found)


def file_of(name: str, root: Path) -> str | None:
    """The file of a module of this project; None if it's none."""
    path = name.replace(".", "/")
    return next((file for file in (f"{path}.py", f"{path}/__init__.py") if (root / file).is_file()), None)


def imports(name: str, source: str, package: bool) -> list[str]:
    """Names that a module imports wherever it does so, but not for type checkers; the packages above them, too."""
    found: set[str] = set()
    for node in at_runtime(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                above = parts[: len(parts) - node.level + package]
                base = ".".join([*above, base] if base else above)
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE.fullmatch(node.value):
            found.add(node.value)
    ours = {module for module in found if module.split(".")[0] in PACKAGES}
    return sorted({".".join(m.split(".")[:depth]) for m in ours for depth in range(1, m.count(".") + 2)})


def at_runtime(tree: ast.AST) -> list[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`."""
    nodes = [tree]
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            nodes += node.orelse
        else:
            nodes += ast.iter_child_nodes(node)
    return nodes


def definition(stage: Any) -> Any:
    """A stage's body in dvc.yaml, below `do` where there is a `foreach`."""
    return stage.get("do", stage)


def is_code(dep: str) -> bool:
    """Whether a dependency is a file of ours that is imported; templates and data are listed by hand."""
    return dep.endswith(".py")


def rewrite(text: str, root: Path = REPO) -> str:
    """dvc.yaml with the code dependencies as they are; data, comments and the order stay."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 4096, True
    document = yaml.load(text)
    for name, stage in document["stages"].items():
        deps = definition(stage)["deps"]
        wanted = closure(name, root)
        if [dep for dep in deps if is_code(dep)] != wanted:
            for index in reversed([i for i, dep in enumerate(deps) if is_code(dep)]):
                del deps[index]  # one by one: this keeps the comments of the others
            deps.extend(wanted)
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def main() -> None:
    """Writes or compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    path = REPO / "dvc.yaml"
    text = path.read_text()
    new = rewrite(text)
    if parser.parse_args().write:
        path.write_text(new)
    elif new != text:
        sys.exit("dvc.yaml's code dependencies aren't what the stages import: python -m tools.closure --write")


if __name__ == "__main__":
    main()
