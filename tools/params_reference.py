"""Writes docs/params.md, a table of every param, from the comments of params.yaml.

`python -m tools.params_reference --write` writes it; without --write it fails where the page isn't up to date.
"""

import argparse
import re
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PAGE = REPO / "docs" / "params.md"
HEAD = """# Params

Every value of `params.yaml`, from the comments beside it (`python -m tools.params_reference --write`). There are no
defaults in code: what isn't in the file isn't set, and an unknown key is an error. These values are the default's, the
shapes world; `presets/` has others. A policy takes from `training` what it doesn't set itself:

```sh
python pipeline.py show policies.dpo
```
"""
KEY = re.compile(r"( *)([A-Za-z_]\w*):(?:\s+([^#]*?))?\s*(?:# (.*))?$")


def rows(text: str) -> list[tuple[str, str, str]]:
    """Returns (path, value, meaning) of each key of a commented YAML file, in its order; a section has no value.

    A key's meaning is the comment behind it, or the comment lines right above it.
    """
    found, above, parents = [], "", [""]
    for line in text.splitlines():
        if line.strip().startswith("#"):
            above += line.strip("# ") + " "
        elif match := KEY.match(line):
            depth = len(match[1]) // 2
            parents[depth:] = [f"{parents[depth - 1]}.{match[2]}" if depth else match[2]]
            found.append((parents[depth], (match[3] or "").strip(), (match[4] or above).strip()))
            above = ""
        else:
            above = ""
    return found


def page(text: str) -> str:
    """Returns the page for the text of a params file."""
    out = [HEAD]
    for path, value, meaning in rows(text):
        if "." not in path:
            title = f"## {path}\n\n{meaning[:1].upper()}{meaning[1:]}" if meaning else f"## {path}"
            out.append(f"{title}\n\n| | | |\n|---|---|---|" if not value else f"{title}\n")
        else:
            cells = (f"`{path.split('.', 1)[1]}`", f"`{value}`" if value else "", meaning.replace("|", "\\|"))
            out.append(f"| {' | '.join(cells)} |")
    return re.sub(r"\n(## )", r"\n\n\1", "\n".join(out)) + "\n"


def main() -> None:
    """Writes or compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    new = page((REPO / "params.yaml").read_text("utf-8"))
    if parser.parse_args().write:
        PAGE.write_text(new, "utf-8")
    elif not PAGE.exists() or new != PAGE.read_text("utf-8"):
        sys.exit("docs/params.md isn't up to date: python -m tools.params_reference --write")


if __name__ == "__main__":
    main()
