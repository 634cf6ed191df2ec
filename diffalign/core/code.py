"""Hashes of this project's code, without its words: they name a stage's work folder."""

import ast
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from diffalign.core import yaml_file
from diffalign.core.home import LIBRARY, ROOT

PACKAGES = ("diffalign", "stages")


def code_hash(stage: str, chosen: Mapping[str, str] | None = None) -> str:
    """Returns the SHA-256, in hex, of the code that a stage depends on; comments and docstrings don't enter.

    The code is what dvc.yaml lists for the stage; for a name that isn't a stage there, every module that is loaded
    now. `chosen` fills in dvc.yaml's templates (`{"model.family": "sd15"}`); a template that it doesn't fill in stands
    for all files that match.
    """
    stages = yaml_file.read(ROOT / "dvc.yaml")["stages"]
    if stage in stages:
        found = set(listed(stages[stage].get("do", stages[stage])["deps"], chosen or {}))
    else:
        modules = [m for name, m in sys.modules.items() if name.split(".")[0] in PACKAGES]
        found = {Path(m.__file__) for m in modules if m.__file__}
    digest = hashlib.sha256()
    for path in sorted(found):
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
