"""Computes the code that each stage depends on, and writes it into dvc.yaml; and that of the sources into several.py.

`python -m tools.closure --write` writes it; without --write it says whether dvc.yaml differs.

A stage's code is the files of this project that its file imports, directly or not, in four forms:

- an entry of an axis that is loaded by name (`diffalign.core.axes`) stands as a path with the name left open, such as
  `diffalign/methods/${item.method}.py`: another entry's file is no dependency. What any entry imports beside itself is;
- a folder stands for its files where the stage needs all of them;
- modules that change no result (`NO_RESULT`) and packages' docstrings are left out;
- everything else stands by itself.
"""

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from diffalign.core.axes import is_entry
from diffalign.core.code import PACKAGES, at_runtime, file_of, imports, without_words
from diffalign.core.files import sha256_bytes

REPO = Path(__file__).resolve().parents[1]
AXES = {
    "diffalign.data.prompts": None,
    "diffalign.data.sources": "${data.source}",
    "diffalign.diffusion.samplers": None,
    "diffalign.generation.rules": None,
    "diffalign.methods": "${item.method}",
    "diffalign.models": "${model.family}",
    "diffalign.rewards": "${key}",
}
"""Packages whose entries are loaded by name, and where dvc.yaml has the name from.

None: a name that dvc.yaml can't say, since a policy may have a sampler of its own. `item` and `key` mean something in a
`foreach` only (`FOREACH`). A stage that doesn't know the name depends on the whole folder.
"""
SEVERAL = Path("diffalign/data/sources/several.py")
"""The source that loads others by names in `data.settings`: it has their code's hashes, which DVC sees as its own."""
FOREACH = {"${item.method}": "${policies}", "${key}": "${rewards}"}
"""What a stage must be repeated over for a name to be known."""
NOT_FOLLOWED = {
    ("ingest", "diffalign.rewards"): "a filter's reward; after an edit of one: dvc repro --force --single-item ingest",
    ("generate", "diffalign.rewards"): "data/rules/POLICY.json has the code of a rule's reward",
    ("train", "diffalign.rewards"): "data/feedback/POLICY.json has the code of those that a policy's training reads",
    ("train", "diffalign.diffusion.samplers"): "likewise; of its probes' pictures they are shown beside the curve only",
    ("train", "diffalign.evaluation.scoring"): "scores images for `curate` by a reward only: likewise",
    ("train", "diffalign.judging.judge"): "loads that reward: likewise",
}
"""Axes that a stage loads from, and modules that it imports, and doesn't depend on, with the reason."""
NO_RESULT = {
    "diffalign/config/": "types and checks of params, whose values DVC compares",
    "diffalign/core/axes.py": "finds a module by its name, which dvc.yaml says",
    "diffalign/core/code.py": "names work folders",
    "diffalign/core/home.py": "where the clone's files are, and what its command is called",
    "diffalign/core/kept.py": "keeps answers; what is asked and answered is up to others",
    "diffalign/core/errors.py": "what a failing or stopping run says",
    "diffalign/core/publishing.py": "moves finished folders to their place",
    "diffalign/core/records.py": "refuses damaged files; what is in a file is up to the modules that have its model",
    "diffalign/core/collector.py": "when memory is looked through",
    "diffalign/core/progress.py": "what is shown while a stage runs",
    "diffalign/data/odd.py": "what is said of small or odd data",
    "diffalign/monitoring/alarm_words.py": "the text of alarms; what raises them is in alarms.py",
    "diffalign/planning/": "what a training will take, and with it whether it is compiled, which is in its metadata",
    "diffalign/runtime/compile_stop.py": "when a run stops; going on from there gives the same bytes",
    "diffalign/runtime/external.py": "joins the processes of a launcher; their number is in each model's metadata",
    "diffalign/runtime/launch.py": "starts the processes of a training",
    "diffalign/runtime/processes.py": "ends processes together",
    "diffalign/runtime/signals.py": "when a run stops; going on from there gives the same bytes",
    "diffalign/runtime/switches.py": "reads environment variables",
    "diffalign/runtime/timings.py": "wall times, which are in no out",
    "diffalign/runtime/throughput.py": "wall times, which are in no out",
}
"""Files, and folders of them, that no stage depends on, with the reason: an edit of them must not retrain anything."""
SHOWN = {
    "card": {"diffalign/data/odd.py"},
    "check": {"diffalign/config/"},
    "report": {"diffalign/data/odd.py", "diffalign/monitoring/alarm_words.py"},
}
"""Exceptions from NO_RESULT: what a stage is there for. A folder counts whole, whatever the stage imports."""


def dependencies(stage: str, foreach: str | None, root: Path = REPO) -> list[str]:
    """Lists the code dependencies of `stages/STAGE.py` as dvc.yaml has them, sorted; paths relative to the root.

    `foreach` is what dvc.yaml repeats the stage over, such as `${policies}`.
    """
    found, axes = closure(stage, foreach, root)
    entries = {f"{axis.replace('.', '/')}/{AXES[axis]}.py" for axis in axes}
    return sorted({*folded(found, root), *entries})


def closure(stage: str, foreach: str | None, root: Path = REPO) -> tuple[set[str], set[str]]:
    """Follows a stage's imports: returns the files it needs, and the axes of which it needs one entry."""
    found: set[str] = set()
    axes: set[str] = set()
    seen: set[str] = set()
    waiting = [f"stages.{stage}", *(name for path in SHOWN.get(stage, ()) for name in modules(path, root))]
    while waiting:
        name = waiting.pop()
        path = file_of(name, root)
        if path is None or name in seen or left_out(path, stage) or (stage, name) in NOT_FOLLOWED:
            continue
        seen.add(name)
        source = (root / path).read_text()
        if not says_nothing(source):
            found.add(path)
        waiting += imports(name, source, path.endswith("/__init__.py"))
        for axis in loaded(source):
            if (stage, axis) in NOT_FOLLOWED:
                continue
            entries = [f"{axis}.{entry}" for entry in entries_of(axis, root)]
            if named(axis, foreach):
                axes.add(axis)
                for entry in entries:
                    waiting += imports(entry, (root / str(file_of(entry, root))).read_text(), package=False)
            else:
                waiting += entries
    return found, axes


def left_out(path: str, stage: str) -> bool:
    """Tells whether a file changes no result of a stage."""
    return within(path, NO_RESULT) and not within(path, SHOWN.get(stage, ()))


def within(path: str, entries: Iterable[str]) -> bool:
    """Tells whether a file is one of the entries, or in a folder that is one."""
    return any(path == entry or path.startswith(f"{entry.rstrip('/')}/") for entry in entries)


def modules(folder: str, root: Path) -> list[str]:
    """Lists the modules below a folder, sorted; none of a file."""
    return sorted(".".join(path.relative_to(root).with_suffix("").parts) for path in (root / folder).rglob("*.py"))


def named(axis: str, foreach: str | None) -> bool:
    """Tells whether dvc.yaml knows which entry of an axis a stage loads."""
    name = AXES[axis]
    return name is not None and FOREACH.get(name, foreach) == foreach


def entries_of(axis: str, root: Path) -> list[str]:
    """Lists the entries of an axis, sorted, by its files."""
    folder = root / axis.replace(".", "/")
    return sorted(path.stem for path in folder.glob("*.py") if is_entry(folder, path.stem))


def says_nothing(source: str) -> bool:
    """Tells whether a file has no code, but a docstring at most."""
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in ast.parse(source).body)


def loaded(source: str) -> list[str]:
    """Lists the axes that a module loads from by name: their names stand in it as strings."""
    strings = {n.value for n in at_runtime(ast.parse(source)) if isinstance(n, ast.Constant)}
    return [axis for axis in AXES if axis in strings]


def folded(files: set[str], root: Path) -> set[str]:
    """Replaces files by their folder where they are all the code below it, and more than one file."""
    whole: list[str] = []
    folders = {folder.as_posix() for file in files for folder in Path(file).parents if "/" in folder.as_posix()}
    for folder in sorted(folders):  # a folder before those in it
        code = {path for path in (root / folder).rglob("*.py") if not says_nothing(path.read_text())}
        needed = {path for path in code if path.relative_to(root).as_posix() in files}
        if len(code) > 1 and needed == code and not any(folder.startswith(f"{above}/") for above in whole):
            whole.append(folder)
    return {next((folder for folder in whole if file.startswith(f"{folder}/")), file) for file in files}


def definition(stage: Any) -> Any:
    """Returns a stage's body in dvc.yaml, below `do` where there is a `foreach`."""
    return stage.get("do", stage)


def is_code(dep: str, root: Path = REPO) -> bool:
    """Tells whether a dependency is code that a stage imports; templates and data are listed by hand."""
    if not dep.startswith(tuple(f"{package}/" for package in PACKAGES)):
        return False
    return dep.endswith(".py") or not (root / dep).exists() or any((root / dep).rglob("*.py"))


def rewrite(text: str, root: Path = REPO) -> str:
    """Returns dvc.yaml with the code dependencies that are needed, below the others; all other lines stay."""
    stages = yaml.safe_load(text)["stages"]
    lines: list[str] = []
    stage, indent = "", -1  # the stage of the line, and the column of the dashes where it's in a list of dependencies
    for line in [*text.splitlines(), ""]:
        inner = len(line) - len(line.lstrip())
        if indent >= 0 and not (inner == indent and line.lstrip().startswith(("- ", "#"))):
            lines += [f"{' ' * indent}- {dep}" for dep in dependencies(stage, stages[stage].get("foreach"), root)]
            indent = -1
        if found := re.match(r"  (\w+):\s*(#.*)?$", line):
            stage = found[1]
        if line.strip() == "deps:":
            indent = inner
        if not (indent >= 0 and line.lstrip().startswith("- ") and is_code(line.split()[1], root)):
            lines.append(line)
    return "\n".join(lines[:-1]) + "\n"


def with_sources(text: str, root: Path = REPO) -> str:
    """Returns several.py with hashes of the code of the other sources, which dvc.yaml can't name for it."""
    names = [name for name in entries_of("diffalign.data.sources", root) if name != "several"]
    folder = root / SEVERAL.parent
    hashes = {name: sha256_bytes(without_words((folder / f"{name}.py").read_text()).encode())[:12] for name in names}
    return re.sub(r"(?<=^CODE: dict\[str, str\] = )\{[^}]*\}", _literal(hashes), text, flags=re.MULTILINE)


def _literal(hashes: dict[str, str]) -> str:
    return json.dumps(hashes, indent=4)[:-2] + ",\n}"


def main() -> None:
    """Writes dvc.yaml and several.py, or exits with an error where they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write what is needed into dvc.yaml")
    write = parser.parse_args().write
    for path, made in ((REPO / "dvc.yaml", rewrite), (REPO / SEVERAL, with_sources)):
        text = path.read_text()
        new = made(text)
        if write:
            path.write_text(new)
        elif new != text:
            sys.exit(f"{path.name}: its code dependencies aren't what is there: python -m tools.closure --write")


if __name__ == "__main__":
    main()
