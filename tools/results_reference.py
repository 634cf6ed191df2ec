"""Writes docs/evaluate-json.md, a table of every field of metrics/evaluate.json, from the schema's docstrings.

`python -m tools.results_reference --write` writes it; without --write it fails where the page isn't up to date.
"""

import argparse
import ast
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
SCHEMA = REPO / "diffalign" / "evaluation" / "results.py"
PAGE = REPO / "docs" / "evaluate-json.md"
WHOLE = "Evaluation"
HEAD = """# metrics/evaluate.json

Every field, from the docstrings of `diffalign/evaluation/results.py`, which reads and writes the file
(`python -m tools.results_reference --write`). `schema` is raised when a field changes its meaning or goes; a file of
another schema is refused with the command that makes it again:

```sh
dvc repro evaluate
```

What isn't known is `null`, never a default. Rates and their bounds are shares, 0 to 1. [evaluation.md](evaluation.md)
says what the figures mean.
"""


def records(source: str) -> dict[str, tuple[list[str], str, list[tuple[str, str, str]]]]:
    """Returns of each record its bases, its docstring, and its fields: name, type, meaning."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            found[node.name] = (bases, ast.get_docstring(node) or "", list(fields(node)))
    return found


def fields(node: ast.ClassDef) -> list[tuple[str, str, str]]:
    """Returns a class's fields: the name in the file, the type, and the docstring below it."""
    found = []
    for line, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            meaning = str(after.value.value) if said else ""  # type: ignore[union-attr]
            name = "schema" if line.target.id == "version" and "alias" in ast.unparse(line) else line.target.id
            found.append((name, ast.unparse(line.annotation), " ".join(meaning.split())))
    return found


def page(source: str) -> str:
    """Returns the page for the schema's source: the whole file first, then each record with what it inherits."""
    found, out = records(source), [HEAD]

    def inherited(name: str) -> list[tuple[str, str, str]]:
        bases, _, own = found[name]
        return [field for base in bases if base in found for field in inherited(base)] + own

    order = [WHOLE, *(name for name in found if name != WHOLE)]
    for name in order:
        out.append(f"## {name}\n\n{found[name][1]}\n\n| field | type | |\n|---|---|---|")
        for field, kind, meaning in inherited(name):
            out.append(f"| `{field}` | `{kind.replace('|', 'or')}` | {meaning.replace('|', '&#124;')} |")
        out.append("")
    return "\n".join(out)


def main() -> None:
    """Writes or compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    expected = page(SCHEMA.read_text())
    if parser.parse_args().write:
        PAGE.write_text(expected)
    elif PAGE.read_text() != expected:
        sys.exit(f"{PAGE} isn't up to date: python -m tools.results_reference --write")


if __name__ == "__main__":
    main()
