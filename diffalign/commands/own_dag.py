"""The DAG of a user's own repository: dvc.yaml as the project has it, with hashes of the library's code as its files.

DVC can't depend on files in site-packages. So a repository has, in `code/`, a hash of the code of each stage, and one
of each entry that dvc.yaml names by a param (`code/methods/dpo.txt`): a stage runs again where an upgrade changed its
code, and only there. Comments and docstrings don't enter a hash.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

from diffalign.core import axes, code, yaml_file
from diffalign.core.errors import UserError
from diffalign.core.home import LIBRARY, ROOT

SOURCE = ROOT / "dvc.yaml"
HEAD = """\
# The DAG, as diffalign {version} has it; `diffalign upgrade` writes it anew, and beside it where you have edited it.
# `dvc dag` draws it, `dvc repro` runs what is out of date. code/ has hashes of the stages' code (docs/operations.md).
"""
OURS = tuple(f"{name}/" for name in code.PACKAGES)


def text(version: str) -> str:
    """Returns dvc.yaml for a repository of its own: `diffalign stage` as command, files of `code/` as code."""
    lines = [HEAD.format(version=version)]
    stage, said = "", False
    source = SOURCE.read_text("utf-8")
    for line in source[source.index("# What DVC's own commands show") :].splitlines(keepends=True):
        if found := re.fullmatch(r"  (\w+):\n", line):
            stage, said = found[1], False
        line = line.replace("cmd: python pipeline.py ", "cmd: diffalign ")
        dependency = re.fullmatch(r"( +- )(.+)\n", line)
        if dependency and dependency[2].startswith(OURS):
            if "${" not in dependency[2] and said:
                continue
            said |= "${" not in dependency[2]
            line = f"{dependency[1]}{kept_as(stage, dependency[2])}\n"
        lines.append(line)
    return "".join(lines)


def kept_as(stage: str, dependency: str) -> str:
    """Returns the file of `code/` that stands for a code dependency: an entry's that a param names, or the stage's."""
    if "${" not in dependency:
        return f"code/{stage}.txt"
    return f"code/{dependency.removeprefix('diffalign/').removesuffix('.py')}.txt"


def hashes(only: str | None = None) -> dict[str, str]:
    """Maps each file of `code/` to what belongs into it, a SHA-256; of one stage if asked. A second or so for all."""
    found: dict[str, str] = {}
    for stage, entry in yaml_file.read(SOURCE)["stages"].items():
        if only in (None, stage):
            ours = [dep for dep in entry.get("do", entry)["deps"] if dep.startswith(OURS)]
            for dep in (dep for dep in ours if "${" in dep):
                found |= {f"code/{name}.txt": hash_of([path]) for name, path in entries(dep)}
            found[f"code/{stage}.txt"] = hash_of(code.listed([dep for dep in ours if "${" not in dep], {}))
    return found


def entries(dependency: str) -> Iterator[tuple[str, Path]]:
    """Yields the entries of an axis that dvc.yaml names by a param: (`methods/dpo`, its file)."""
    folder = LIBRARY / Path(dependency).parent
    for path in sorted(folder.glob("*.py")):
        if axes.is_entry(folder, path.stem):
            yield path.with_suffix("").relative_to(LIBRARY / "diffalign").as_posix(), path


def hash_of(paths: Iterable[Path]) -> str:
    """Returns the SHA-256, in hex, of some files' names and code."""
    digest = sha256()
    for path in sorted(set(paths)):
        digest.update(f"{path.name}:{hash_of_file(path)}\n".encode())
    return digest.hexdigest()


@cache
def hash_of_file(path: Path) -> str:
    """Returns the SHA-256, in hex, of a file's code; most files are several stages'."""
    return sha256(code.without_words(path.read_text("utf-8")).encode()).hexdigest()


def check(stage: str) -> None:
    """Raises UserError where a repository's `code/` isn't the code that a stage would run: after an upgrade."""
    for name, expected in hashes(stage).items():
        path = Path(name)
        if not path.is_file() or path.read_text().strip() != expected:
            raise UserError(
                f"stage {stage}: {name} is of another version of diffalign than the one that is installed. "
                "Bring this repository up to it: diffalign upgrade (it says what runs again)"
            )
