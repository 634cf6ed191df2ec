"""Finds the clone's files beside the library, or their copies in the wheel, and the project that one works in."""

from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[2]
"""The folder with the package diffalign: the clone, or site-packages."""
_CARRIED = LIBRARY / "diffalign" / "clone"
INSTALLED = (_CARRIED / "pipeline.py").is_file()
"""Whether this is the wheel, which carries the clone's other files in `diffalign/clone` (setup.py)."""
ROOT = _CARRIED if INSTALLED else LIBRARY
"""The folder of the command line, stages, flows, presets and the demo's files."""
MARK = Path("code/version.txt")
"""Is in a repository that `new` made, with the version of diffalign that it's for."""


def repository() -> Path | None:
    """Returns the repository made by `new` in which this process works, or a folder above it is; None elsewhere."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / MARK).is_file()), None)


COMMAND = "diffalign" if INSTALLED or repository() else "python pipeline.py"
"""How the command line is called here: messages say it."""


def project(beside: Path) -> Path:
    """Returns the folder to work in: a repository made by `new`, else the clone, whose own files are `beside`.

    Of the wheel, which has no project in itself: the current folder.
    """
    return repository() or (Path.cwd() if INSTALLED else beside)


def presets(folder: Path | None = None) -> dict[str, Path]:
    """Maps the names of presets to their files: a project's own in presets/, and those that come with diffalign."""
    own, ours = ((above or Path()) / "presets" for above in (folder, ROOT))
    return {path.stem: path for where in (ours, own) for path in sorted(where.glob("*.yaml"))}
