"""Loading by name: a method, family, source, reward or sampler is a module, and its name in params is the module's.

An axis is a package such as `diffalign.methods`. An entry of it is a module there with a function or class `load`,
`build` or `Settings` at its top level, as the axis's protocol file documents. There is no table of entries: a new one
is a new file and its word in `diffalign/config/params.py`. Names of axes are written as literals at the call, so that
`tools/closure.py` finds them.
"""

import ast
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

from diffalign.core.errors import UserError

ENTRIES = ("load", "build", "Settings")
"""Names of what an entry's module offers; a module without either is a helper of its axis."""


def load(package: str, name: str) -> ModuleType:
    """Imports an entry of an axis: `load("diffalign.methods", "dpo")` gives the module `diffalign.methods.dpo`.

    Raises UserError naming the entries there are if there is no such module; an error while it's imported passes.
    """
    if not name.isidentifier() or importlib.util.find_spec(f"{package}.{name}") is None:
        folder = package.replace(".", "/")
        raise UserError(
            f"{package}: expected one of {', '.join(names(package)) or 'none so far'}; found {name!r}. Take one of "
            f"those, or write {folder}/{name}.py (docs/extending.md)."
        )
    return importlib.import_module(f"{package}.{name}")


def names(package: str) -> list[str]:
    """Lists the entries of an axis, sorted: modules with one of `ENTRIES` that don't load by name themselves.

    Reads the files without importing them.
    """
    folders = list(importlib.import_module(package).__path__)
    return [
        module.name for module in pkgutil.iter_modules(folders) if any(is_entry(Path(f), module.name) for f in folders)
    ]


def is_entry(folder: Path, name: str) -> bool:
    """Tells whether a module of an axis's folder is an entry, by its source."""
    path = folder / f"{name}.py"
    if not path.is_file():
        return False
    tree = ast.parse(path.read_text())
    imported = [f"{n.module}.{a.name}" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names]
    defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    defined |= {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    return "diffalign.core.axes" not in imported and not defined.isdisjoint(ENTRIES)
