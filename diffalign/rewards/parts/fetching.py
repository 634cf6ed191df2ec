"""Brings the published weights of rewards into their folders, at pinned commits, verified, and converts checkpoints.

A commit that isn't pinned is resolved once and kept in `data/raw/fetch.lock.json`. At the end `checksums.json` in the
folder has the files' SHA-256, which loading verifies.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from diffalign.core import axes
from diffalign.core.errors import UserError
from diffalign.core.files import sha256_file
from diffalign.core.home import COMMAND
from diffalign.data.hub import fetch as hub
from diffalign.data.hub.download import Remote, download
from diffalign.data.hub.pinned import Pinned
from diffalign.models.parts import weights
from diffalign.rewards.parts import convert, folders
from diffalign.rewards.parts.folders import Published

FOLDER = Path("models/rewards")
"""The folder of the rewards' folders, where params don't say another."""
FETCHED = ".fetched"
"""The folder of a checkpoint in its reward's, until it is converted."""
RAW = "https://raw.githubusercontent.com"


def run(names: Iterable[str], settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Fetches rewards by name into the folders that params say, and prints the settings that name their weights.

    `settings` is the section `rewards` as plain values. Raises UserError for a reward without published weights, and
    for what a user can mend of the network, the hub and the disk.
    """
    sources = {name: published(name) for name in names}
    for name, found in sources.items():
        own = settings.get(name, {})
        folder = Path(own.get("path", FOLDER / name))
        bring(name, folder, found)
        digits = folders.digits(folder / file for source in found for file in source.weights)
        size = own.get("batch_size", 16)
        print(
            f"{name} is in {folder}. In params.yaml:\n"
            f"rewards:\n  {name}: {{path: {folder}, batch_size: {size}, sha256: '{digits}'}}",
            flush=True,
        )


def needed(settings: Iterable[str]) -> list[str]:
    """Returns those of params' rewards that have published weights; UserError where none has."""
    found = [name for name in settings if hasattr(axes.load("diffalign.rewards", name), "SOURCES")]
    if not found:
        raise UserError(
            "fetch --rewards: expected rewards with published weights in params.yaml, found none: name them, such as "
            f"`{COMMAND} fetch --rewards pickscore`"
        )
    return found


def published(reward: str) -> tuple[Published, ...]:
    """Returns where a reward's files are published; UserError where it has none, or there is no such reward."""
    module = axes.load("diffalign.rewards", reward)
    if not hasattr(module, "SOURCES"):
        every = {name: axes.load("diffalign.rewards", name) for name in axes.names("diffalign.rewards")}
        names = ", ".join(name for name, entry in every.items() if hasattr(entry, "SOURCES"))
        raise UserError(f"fetch --rewards: expected some of {names}; {reward} has no published weights")
    found: tuple[Published, ...] = module.SOURCES
    return found


def bring(reward: str, folder: Path, sources: Iterable[Published]) -> None:
    """Brings the files that a reward's folder lacks, converts them where they need it, and notes their checksums.

    Raises UserError where a file that was noted has changed.
    """
    weights.verify(folder)
    names: list[str] = []
    for source in sources:
        if source.checkpoint:
            converted(reward, folder, source)
        else:
            as_published(reward, folder, source)
        names += source.files
    weights.note(folder, {name: weights.digest(folder / name, "sha256") for name in names})


def pinned(reward: str, source: Published, folder: Path, files: tuple[str, ...]) -> tuple[str, Pinned]:
    """Returns the name that the lock file has for some files of a reward, and what the hub is asked for."""
    return f"{reward}: {source.repo}", Pinned(source.repo, "model", source.revision or "main", folder, files, flat=True)


def as_published(reward: str, folder: Path, source: Published) -> None:
    """Downloads files as they are; UserError where their repository lacks one."""
    asked = pinned(reward, source, folder, source.files)
    found = {remote.target.name for remote in hub.listed(*asked)}
    if lacking := [name for name in source.files if name not in found]:
        raise UserError(
            f"{source.repo} has no {', '.join(lacking)} at {asked[1].revision}: bring it yourself into {folder}, or "
            "correct SOURCES of the reward."
        )
    hub.bring(*asked)


def converted(reward: str, folder: Path, source: Published) -> None:
    """Downloads a checkpoint and converts it, unless what is there was made from the very same one; then removes it."""
    place = folder / FETCHED
    if source.on_github:
        remotes = [on_github(source, place)]
    else:
        asked = pinned(reward, source, place, (source.checkpoint,))
        remotes = hub.listed(*asked)
    (remote,) = remotes
    made = [folder / name for name in source.files]
    if all(path.is_file() for path in made):
        was = [folders.metadata(folder / name).get(folders.SOURCE) for name in source.weights]
        if was == [remote.digest]:
            print(f"{reward}: {folder} was converted from this very checkpoint.", flush=True)
            return
    if source.on_github:
        if not remote.matches(remote.target):
            download(f"fetch {reward}", remotes, lambda _: None)
    else:
        hub.bring(*asked)
    convert.convert(reward, remote.target, folder, sha256_file(remote.target))
    shutil.rmtree(place)


def on_github(source: Published, folder: Path) -> Remote:
    """Returns a file at a commit of a repository on GitHub, whose size and checksum are stated."""
    owner_and_name = source.repo.removeprefix("https://github.com/")
    return Remote(
        path=source.checkpoint,
        url=f"{RAW}/{owner_and_name}/{source.revision}/{quote(source.checkpoint)}",
        size=source.size,
        algorithm="sha256",
        digest=source.sha256,
        target=folder / source.checkpoint,
        part=folder / f"{source.checkpoint}.part",
        hub=False,
    )
