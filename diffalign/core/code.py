"""Hashes of this project's code, without its words: they name work folders, and say which reward's code is another."""

import ast
import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import cache
from pathlib import Path

from diffalign.core import yaml_file
from diffalign.core.home import LIBRARY, ROOT

PACKAGES = ("diffalign", "stages")
MODULE = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
"""A string that is a module's name is an import too: workers and axes are named by strings."""


def code_hash(stage: str, chosen: Mapping[str, str] | None = None) -> str:
    """Returns the SHA-256, in hex, of the code that a stage depends on; comments and docstrings don't enter.

    The code is what dvc.yaml lists for the stage; for a name that isn't a stage there, every module that is loaded
    now. `chosen` fills in dvc.yaml's templates (`{"model.family": "sd15"}`); a template that it doesn't fill in stands
    for all files that match.
    """
    found = files_of(stage, chosen)
    if found is None:
        modules = [m for name, m in sys.modules.items() if name.split(".")[0] in PACKAGES]
        found = {Path(m.__file__) for m in modules if m.__file__}
    return hash_of(found)


def files_of(stage: str, chosen: Mapping[str, str] | None = None) -> set[Path] | None:
    """Returns the Python files that dvc.yaml lists for a stage; None of a name that isn't a stage there."""
    stages = yaml_file.read(ROOT / "dvc.yaml")["stages"]
    if stage not in stages:
        return None
    return set(listed(stages[stage].get("do", stages[stage])["deps"], chosen or {}))


def hasher(stage: str) -> Callable[[Iterable[str]], str]:
    """Returns a function from modules to the hash of the code that they reach among a stage's own (`reached_hash`)."""
    known = cache(lambda: frozenset(files_of(stage) or ()))  # read once, where it's asked
    return lambda modules: reached_hash(modules, known())


def reached_hash(modules: Iterable[str], known: Set[Path]) -> str:
    """Returns the hash of those of some `known` files that modules import, directly or not, and of their own.

    What a module loads by its name isn't followed.
    """
    waiting, found = [*modules], set[Path]()
    while waiting:
        name = waiting.pop()
        file = file_of(name, LIBRARY)
        if file is not None and (path := LIBRARY / file) in known - found:
            found.add(path)
            waiting += imports(name, path.read_text("utf-8"), package=False)
    return hash_of(found)


def hash_of(files: Iterable[Path]) -> str:
    """Returns the SHA-256, in hex, over the names and the code of files of ours."""
    digest = hashlib.sha256()
    for path in sorted(files):
        name = path.relative_to(ROOT if path.is_relative_to(ROOT) else LIBRARY)
        digest.update(f"{name}:{without_words(path.read_text('utf-8'))}\n".encode())
    return digest.hexdigest()


def listed(dependencies: list[str], chosen: Mapping[str, str]) -> Iterator[Path]:
    """Yields the Python files that some dependencies of dvc.yaml name: a file, a folder of ours, or a template."""
    for dependency in dependencies:
        name = re.sub(r"\$\{([^}]+)\}", lambda found: chosen.get(found[1], "*"), dependency)
        if name.split("/")[0] not in PACKAGES:
            continue  # data
        folder = LIBRARY if name.split("/")[0] == "diffalign" else ROOT
        yield from folder.glob(name if name.endswith(".py") else f"{name}/**/*.py")


def without_words(source: str) -> str:
    """Returns Python code as text in which comments, docstrings, layout and line numbers leave no trace."""
    return ast.dump(Wordless().visit(ast.parse(source)))


class Wordless(ast.NodeTransformer):
    """Removes what does nothing: docstrings, which are statements of a string alone, and `pass`."""

    def visit_Expr(self, node: ast.Expr) -> ast.stmt | None:
        """Removes a docstring."""
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        self.generic_visit(node)
        return node

    def visit_Pass(self, node: ast.Pass) -> None:
        """Removes `pass`, which stands where a docstring could as well."""


def file_of(name: str, root: Path) -> str | None:
    """Returns the file of a module of this project; None if it's none."""
    path = name.replace(".", "/")
    return next((file for file in (f"{path}.py", f"{path}/__init__.py") if (root / file).is_file()), None)


def imports(name: str, source: str, package: bool) -> list[str]:
    """Lists the modules that a module imports wherever it does so, but not for type checkers, and their packages."""
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
    """Lists all nodes but those under `if TYPE_CHECKING:`."""
    nodes = [tree]
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            nodes += node.orelse
        else:
            nodes += ast.iter_child_nodes(node)
    return nodes
