"""Fetches pinned data and weights from the Hugging Face hub; nothing else needs a network.

`data/raw/fetch.lock.json` records the fetched files, their commits and checksums. A file under its final name is whole:
it was downloaded under another and verified. A killed fetch resumes where it stopped.
"""

import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from diffalign.core import files, records
from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.data.hub.download import Remote, download, gigabytes, size_of
from diffalign.data.hub.hub_errors import hub_errors
from diffalign.data.hub.pinned import PINNED, Pinned
from diffalign.models.parts import weights

LOCK = Path("data/raw/fetch.lock.json")


def wanted(folders: Iterable[str]) -> list[str]:
    """Returns the names of the sources that fill these folders, in `PINNED`'s order; UserError if there are none."""
    named = {Path(folder) for folder in folders}
    names = [name for name, pinned in PINNED.items() if pinned.folder in named]
    if not names:
        raise UserError(
            "params.yaml needs nothing that is fetched: no folder that it names comes from the hub. Write params that "
            f"do ({COMMAND} preset sd15), or say what to fetch: {', '.join(PINNED)}"
        )
    return names


def run(
    folders: Iterable[str],
    names: Sequence[str] = (),
    limit: int | None = None,
    repo: str | None = None,
    revision: str | None = None,
) -> None:
    """Fetches the sources in `names`, by default those that fill `folders`, which the params name; see `fetch`.

    Raises UserError where `repo` or `revision` comes with several names.
    """
    names = names or wanted(folders)
    if (repo or revision) and len(names) != 1:
        raise UserError(f"--repo and --revision are for one source, got {', '.join(names)}: name the one")
    for name in names:
        folder = fetch(name, limit, repo, revision)
        print(f"{name} is in {folder}.", flush=True)


def fetch(name: str, limit: int | None = None, repo: str | None = None, revision: str | None = None) -> Path:
    """Downloads the missing files of a pinned source into its folder; returns the folder.

    `limit` is the largest number of files of a data set's bulk (Pick-a-Pic's training split). `repo` and `revision`
    name another repository or commit, such as the user's copy. Raises UserError for an unknown name, no network, no
    access, too little space, or a folder that holds another revision.
    """
    if name not in PINNED:
        raise UserError(f"fetch: expected one of {', '.join(PINNED)}, got {name!r}")
    source = PINNED[name]
    if repo and repo != source.repo:
        source = replace(source, repo=repo, revision="main")
    source = replace(source, revision=revision or source.revision)
    remotes = bring(name, source, limit)
    if source.kind == "model":
        # Loading a model verifies these checksums.
        weights.note(source.folder, checksums(source, remotes))
    return source.folder


def bring(name: str, source: Pinned, limit: int | None = None) -> list[Remote]:
    """Downloads the missing files of a source, which the lock file has as `name`; returns all of them. See `fetch`."""
    remotes = listed(name, source, limit)
    with hub_errors(source.repo, source.kind, source.revision, source.folder):
        missing = [remote for remote in remotes if not _is_here(name, remote)]
        _plan(source, read_lock()[name]["commit"], remotes, missing)
        download(f"fetch {name}", missing, lambda remote: _record(name, {remote.path: remote.checksum}))
    with suppress(OSError):  # it doesn't exist, or has partial files outside this selection
        (source.folder / ".part").rmdir()
    return remotes


def listed(name: str, source: Pinned, limit: int | None = None) -> list[Remote]:
    """Asks the hub for a source's files and their checksums, at the commit that the lock file has from then on."""
    with hub_errors(source.repo, source.kind, source.revision, source.folder):
        return _select(source, _commit(name, source), limit)


def checksums(source: Pinned, remotes: Iterable[Remote]) -> dict[str, str]:
    """Returns the checksums of a source's files by their paths in its folder, as checksums.json has them."""
    return {str(remote.target.relative_to(source.folder)): remote.checksum for remote in remotes}


def _commit(name: str, source: Pinned) -> str:
    """Returns the full commit of the source's revision, from the lock file or else the hub, and records it.

    Raises UserError where the folder holds another revision or the hub doesn't know exactly one such commit.
    """
    from huggingface_hub import HfApi

    entry = read_lock().get(name)
    if entry and (entry["repo"], entry["revision"]) == (source.repo, source.revision):
        return str(entry["commit"])
    if entry:
        raise UserError(
            f"{source.folder} holds {entry['repo']} at {entry['revision']}; asked is {source.repo} at "
            f"{source.revision}. Move that folder away, remove {name!r} from {LOCK}, and run the same command again."
        )
    asked = source.revision.lower()
    if 7 <= len(asked) < 40 and set(asked) <= set("0123456789abcdef"):
        history = HfApi().list_repo_commits(source.repo, repo_type=source.kind)
        found = [c.commit_id for c in history if c.commit_id.startswith(asked)]
        if len(found) != 1:
            raise UserError(
                f"{source.repo}: expected one commit that begins with {asked}, found {len(found)} in its history. "
                "Name one: --revision COMMIT"
            )
        commit = found[0]
    else:
        commit = HfApi().repo_info(source.repo, revision=source.revision, repo_type=source.kind).sha or ""
        if len(commit) != 40 or (len(asked) == 40 and commit != asked):
            raise UserError(f"{source.repo}: asked for revision {source.revision}, the hub answers with {commit!r}")
    _record(name, {}, repo=source.repo, revision=source.revision, commit=commit)
    return commit


def _select(source: Pinned, commit: str, limit: int | None) -> list[Remote]:
    """Returns the wanted files at a commit, sorted by path, with at most `limit` of those that it counts.

    Raises UserError where there are none, or where two would get one name.
    """
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.hf_api import RepoFile

    remotes = []
    for item in HfApi().list_repo_tree(source.repo, recursive=True, revision=commit, repo_type=source.kind):
        if isinstance(item, RepoFile) and any(fnmatch(item.path, pattern) for pattern in source.patterns):
            remotes.append(
                Remote(
                    path=item.path,
                    url=hf_hub_url(source.repo, item.path, repo_type=source.kind, revision=commit),
                    size=item.size,
                    algorithm="sha256" if item.lfs else "git",
                    digest=item.lfs.sha256 if item.lfs else item.blob_id,
                    target=source.folder / (Path(item.path).name if source.flat else item.path),
                    part=source.folder / ".part" / f"{item.path.replace('/', '--')}.part",
                )
            )
    remotes.sort(key=lambda remote: remote.path)
    if limit is not None:
        counted = [remote for remote in remotes if source.limited and fnmatch(remote.path, source.limited)]
        remotes = [remote for remote in remotes if remote not in counted[limit:]]
    if not remotes:
        raise UserError(f"{source.repo} at {commit} has no file like {', '.join(source.patterns)}")
    if len({remote.target for remote in remotes}) < len(remotes):
        raise UserError(f"{source.repo} at {commit} has files of one name in several folders: {source.folder} is one")
    return remotes


def _is_here(name: str, remote: Remote) -> bool:
    """Tells whether a file is complete, by the lock file or else by its checksum, which is then recorded."""
    if size_of(remote.target) != remote.size:
        return False
    if read_lock()[name]["files"].get(remote.path) != remote.checksum:
        if not remote.matches(remote.target):
            return False
        _record(name, {remote.path: remote.checksum})
    return True


def _plan(source: Pinned, commit: str, remotes: list[Remote], missing: list[Remote]) -> None:
    """Prints the number and size of the files to download; raises UserError if the disk can't hold them."""
    total = sum(remote.size for remote in remotes)
    need = sum(remote.size - size_of(remote.part) for remote in missing)
    source.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(source.folder).free
    print(f"{source.repo} at {commit[:12]}: {len(remotes)} files, {gigabytes(total)}, for {source.folder}.")
    print(f"To download: {len(missing)} files, {gigabytes(need)}; free there: {gigabytes(free)}.", flush=True)
    if need > free:
        raise UserError(
            f"{source.folder} needs {gigabytes(need)} more, its disk has {gigabytes(free)}. Free some space, make the "
            "folder a link to one on a larger disk, or fetch a part of a data set: --files N"
        )


def read_lock() -> dict[str, Any]:
    """Loads the lock file: name -> {repo, revision, commit, files: {path on the hub: "sha256:..." or "git:..."}}."""
    remedy = "Bring it back from a backup, or remove it and run the same command again: what is there is verified anew."
    found = records.plain(LOCK, (), remedy) if LOCK.exists() else {}
    for name, entry in found.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("files"), dict):
            raise UserError(
                f"{LOCK}: {name}: expected an object with files, found {records.shortened(entry)}. {remedy}"
            )
    return found


def _record(name: str, done: dict[str, str], **pin: str) -> None:
    lock = read_lock()
    entry = lock.setdefault(name, {"files": {}})
    entry.update(pin)
    entry["files"].update(done)
    files.write_json(LOCK, lock)
