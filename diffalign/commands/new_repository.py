"""new, upgrade: a repository of a user's own around the installed library, and the same after `pip install -U`."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from diffalign.commands import own_dag
from diffalign.core import files, home
from diffalign.core.errors import UserError
from diffalign.core.home import ROOT

DAG, MADE = Path("dvc.yaml"), Path("code/dvc.txt")
"""The second has the SHA-256 of the first as diffalign wrote it: it tells a user's edits."""
KEPT_EMPTY = ("data/votes", "metrics/scores", "metrics/rewards")
"""Folders in git on which stages depend, whether or not anything makes them."""
COPIED = (".dvcignore", "prefect.toml", "filters", "prompts")
README = """\
# {title}

A repository of diffalign: human preferences into a better text-to-image model. The library is installed (version
{version} made this), here are params, the DAG and what belongs to you.

| | |
|---|---|
| `params.yaml` | every setting; `diffalign preset sd15-lora` replaces it, `diffalign show` prints it resolved |
| `dvc.yaml`, `code/` | the stages, and hashes of their code; `diffalign upgrade` writes them |
| `prefect.yaml`, `prefect.toml` | schedules: `diffalign serve`; Prefect's settings |
| `filters/`, `prompts/` | word lists for `data.filters`, prompts of your own for `generate.prompts` |
| `assets/` | the demo's toy model and comparisons; not in git, `diffalign upgrade` puts them back |

    diffalign import FOLDER --to data/raw/mine --preset sd15-lora   # pairs of your own
    diffalign fetch                                                 # the model that params.yaml names
    diffalign plan                                                  # what training will take
    dvc repro                                                       # runs what is needed
    diffalign summary                                               # results; the report is reports/report.html
    diffalign ui                                                    # MLflow's pages

After `pip install -U diffalign`: `diffalign upgrade`, and commit what it changed.
"""


def new(path: Path, preset: str | None) -> str:
    """Makes a repository in a new or empty folder; returns what to do next. Raises UserError where files are there.

    git and DVC are set up, and all is staged; the commit is the user's.
    """
    if path.exists() and (not path.is_dir() or any(child.name != ".git" for child in path.iterdir())):
        raise UserError(f"new: {path} has files: expected a new or an empty folder. Name another.")
    known = home.presets()
    if preset and preset not in known:
        raise UserError(f"new: --preset: expected one of {', '.join(sorted(known))}, got {preset!r}.")
    path.mkdir(parents=True, exist_ok=True)
    run(["git", "init", "-q"], path)
    run([sys.executable, "-m", "dvc", "init", "-q"], path)
    shutil.copyfile(known[preset] if preset else ROOT / "params.yaml", path / "params.yaml")
    for name in COPIED:
        put(ROOT / name, path / name)
    files.write_text(path / ".gitignore", (ROOT / ".gitignore").read_text() + "# Comes with diffalign\n/assets/\n")
    title = path.resolve().name
    files.write_text(path / "README.md", README.format(title=title, version=version("diffalign")))
    for name in KEPT_EMPTY:
        (path / name).mkdir(parents=True)
        (path / name / ".gitkeep").touch()
    write(path)
    run(["git", "add", "-f", *(f"{name}/.gitkeep" for name in KEPT_EMPTY)], path)
    run(["git", "add", "."], path)
    return (
        f"{path} is a repository of diffalign {version('diffalign')}; git and DVC are set up, nothing is committed.\n"
        f"Next: cd {path} && git commit -m 'A repository of diffalign', then README.md there; or the demo: dvc repro"
    )


def upgrade() -> str:
    """Brings the repository in the current folder to the installed version; returns what runs again, and why."""
    if not home.MARK.is_file():
        raise UserError(
            f"upgrade: expected a repository made by `diffalign new`, found no {home.MARK} here or above. A clone is "
            "upgraded by git."
        )
    before = home.MARK.read_text().strip()
    old = {path.as_posix(): path.read_text().strip() for path in Path("code").rglob("*.txt")}
    told = write(Path())
    now = own_dag.hashes()
    for name in old.keys() - now.keys() - {home.MARK.as_posix(), MADE.as_posix()}:
        Path(name).unlink()
    changed = sorted(name.removeprefix("code/").removesuffix(".txt") for name in now if old.get(name) != now[name])
    lines = [f"From diffalign {before} to {version('diffalign')}.", *told]
    if not changed:
        return "\n".join([*lines, "No stage's code has changed: nothing runs again."])
    return "\n".join(
        [
            *lines,
            f"Code has changed: {', '.join(changed)}. `dvc status` says which stages are due, `dvc repro` runs them; "
            "where a change can't matter to what is made: dvc commit -f STAGE",
        ]
    )


def write(path: Path) -> list[str]:
    """Writes what belongs to diffalign's version into a repository; returns notes on what wasn't overwritten."""
    text = own_dag.text(version("diffalign"))
    dag, made, told = path / DAG, path / MADE, []
    if dag.exists() and files.sha256_file(dag) != made.read_text().strip():
        beside = dag.with_name("dvc.yaml.new")
        files.write_text(beside, text)
        told.append(f"{dag} has edits of yours and was kept. Bring in what differs from {beside}, then remove that.")
    else:
        files.write_text(dag, text)
    if not (path / "prefect.yaml").exists():
        files.write_text(path / "prefect.yaml", schedules())
    for name, value in own_dag.hashes().items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path / name, f"{value}\n")
    files.write_text(made, f"{files.sha256_bytes(text.encode())}\n")
    files.write_text(path / home.MARK, f"{version('diffalign')}\n")
    for name in (".dvc/plots", ".dvc/config", "assets"):
        put(ROOT / name, path / name)
    return told


def schedules() -> str:
    """Returns prefect.yaml with the flows as modules, which are found wherever diffalign is installed."""
    text = (ROOT / "prefect.yaml").read_text("utf-8").replace("python pipeline.py", "diffalign")
    for flow in ("align", "collect", "rounds"):
        text = text.replace(f"flows/{flow}.py:{flow}", f"diffalign.clone.flows.{flow}.{flow}")
    return text


def put(source: Path, to: Path) -> None:
    """Copies a file, or a folder's files that aren't there; DVC's configuration only where it's empty."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file() and not (to / path.relative_to(source)).exists():
                (to / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to / path.relative_to(source))
    elif not to.exists() or not to.stat().st_size or to.name == ".dvcignore":
        shutil.copyfile(source, to)


def run(command: list[str], folder: Path) -> None:
    """Runs a command of git or DVC; raises UserError with what it said."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(f"new: expected {command[0]} to be installed, found none on PATH.") from None
    if done.returncode:
        raise UserError(f"new: {' '.join(command)} failed in {folder}:\n{done.stderr.strip()}")
