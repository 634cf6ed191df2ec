"""Writes the work and sizes of the presets' and the demo's trainings, so that `plan` needn't count them.

`python -m tools.known_counts --write` counts them anew, for a minute or two; without --write it fails where they aren't
up to date.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffalign.config.load import load
from diffalign.config.training import Trained
from diffalign.core.files import canonical_json
from diffalign.planning import counts, work

ROOT = Path(__file__).resolve().parents[1]


def counted() -> list[dict[str, Any]]:
    """Counts every trained policy of params.yaml and of every preset, each question once."""
    found = {}
    for file in (ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))):
        params = load(file)
        for name, policy in params.policies.items():
            if isinstance(policy, Trained):
                question = counts.question(params, policy)
                if (key := canonical_json(question)) not in found:
                    sys.stderr.write(f"known_counts: {file.stem} {name}\n")
                    found[key] = {"question": question, "counts": asdict(work.counted(params, name, policy))}
    return list(found.values())


def text(found: list[dict[str, Any]]) -> str:
    """Returns the file's text, a line for each question."""
    return "[\n" + ",\n".join(json.dumps(one, sort_keys=True) for one in found) + "\n]\n"


def main() -> None:
    """Writes the file, or fails where it isn't up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    made = text(counted())
    if parser.parse_args().write:
        counts.SHIPPED.write_text(made)
    elif made != counts.SHIPPED.read_text():
        sys.exit(f"{counts.SHIPPED} isn't up to date: python -m tools.known_counts --write")


if __name__ == "__main__":
    main()
