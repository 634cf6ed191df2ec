"""Pinned data and weights from the Hugging Face hub; the only part that needs a network.

What was fetched, from which commit, with which checksums, is recorded in `data/raw/fetch.lock.json`. A file that has
its name is whole: it was downloaded beside it and verified. A killed fetch goes on where it stopped.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffalign.core import files
from diffalign.core.errors import UserError
from diffalign.data.hub.download import Remote, download, gigabytes, size_of
from diffalign.models import weights

if TYPE_CHECKING:
    from diffalign.config.params import Params

LOCK = Path("data/raw/fetch.lock.json")
NETWORK = ("config.json", "diffusion_pytorch_model.safetensors")


@dataclass(frozen=True)
class Pinned:
    """A part of a repository on the hub, and the folder it goes to.

    `revision`: a commit, or its first hexadecimal digits where no more were published; those are completed from the
    repository's history once, and the lock file keeps the answer. `patterns`: the files wanted. `limited`: those of
    them that `limit` counts. `flat`: into one folder, whatever folders they have on the hub.
    """

    repo: str
    kind: Literal["model", "dataset"]
    revision: str
    folder: Path
    patterns: tuple[str, ...]
    limited: str = ""
    flat: bool = False


def diffusers_files(encoders: int, denoiser: str) -> tuple[str, ...]:
    """The files of a model in diffusers' layout with so many CLIPs: its configs and its fp32 safetensors.

    Repositories have fp16 ones beside them, and other frameworks'.
    """
    suffixes = ("", "_2")[:encoders]
    return (
        "model_index.json",
        "scheduler/*.json",
        *(f"tokenizer{suffix}/*.{kind}" for suffix in suffixes for kind in ("json", "txt")),
        *(f"text_encoder{suffix}/{file}" for suffix in suffixes for file in ("config.json", "model.safetensors")),
        *(f"{denoiser}/{file}" for file in NETWORK),
        *(f"vae/{file}" for file in NETWORK),
    )


# validation-* and test-* of Pick-a-Pic hold the rows of the *_unique files again, so they stay on the hub.
PICKAPIC = ("*train-*.parquet", "*validation_unique-*.parquet", "*test_unique-*.parquet")

PINNED = {
    "sd15": Pinned(
        repo="stable-diffusion-v1-5/stable-diffusion-v1-5",
        kind="model",
        revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        folder=Path("models/base/sd15"),
        patterns=diffusers_files(1, "unet"),
    ),
    "sdxl": Pinned(
        repo="stabilityai/stable-diffusion-xl-base-1.0",
        kind="model",
        revision="462165984030d82259a11f4367a4eed129e94a7b",
        folder=Path("models/base/sdxl"),
        patterns=diffusers_files(2, "unet"),
    ),
    # Gated: its terms must be accepted first. T5 stays on the hub, text_encoder_3 and tokenizer_3: sd3 can do without.
    "sd3": Pinned(
        repo="stabilityai/stable-diffusion-3-medium-diffusers",
        kind="model",
        revision="ea42f8cef0f178587cf766dc8129abd379c90671",
        folder=Path("models/base/sd3"),
        patterns=diffusers_files(2, "transformer"),
    ),
    # The authors' yuvalkirstain/pickapic_v2 left the hub in April 2025 (github.com/yuvalkirstain/PickScore, issue 36).
    # This is a community's copy of it, at the revision that others have published results from.
    "pickapic_v2": Pinned(
        repo="liuhuohuo2/pick-a-pic-v2",
        kind="dataset",
        revision="f602d48",
        folder=Path("data/raw/pickapic_v2"),
        patterns=PICKAPIC,
        limited="*train-*",
        flat=True,
    ),
    # The authors' own copy of v1, made for the paper's anonymous review.
    "pickapic_v1": Pinned(
        repo="pickapic-anonymous/pickapic_v1",
        kind="dataset",
        revision="8e69b58d729339cb7771133c70ee18b527fd4ae3",
        folder=Path("data/raw/pickapic_v1"),
        patterns=PICKAPIC,
        limited="*train-*",
        flat=True,
    ),
}


def wanted(params: "Params") -> list[str]:
    """What the params need that is fetched, in the order of `PINNED`; raises UserError where that's nothing."""
    policies = [policy.init for policy in params.policies.values()]
    named = {Path(path) for path in [params.data.path, params.model.path, *policies]}
    names = [name for name, pinned in PINNED.items() if pinned.folder in named]
    if not names:
        raise UserError(
            "params.yaml needs nothing that is fetched: no folder that it names comes from the hub. Write params that "
            f"do (python pipeline.py preset sd15), or say what to fetch: {', '.join(PINNED)}"
        )
    return names


def run(
    params: "Params",
    names: Sequence[str] = (),
    limit: int | None = None,
    repo: str | None = None,
    revision: str | None = None,
) -> None:
    """Fetches what the params need, or what `names` say; `repo` and `revision` are for one name. See `fetch`."""
    names = names or wanted(params)
    if (repo or revision) and len(names) != 1:
        raise UserError(f"--repo and --revision are for one source, got {', '.join(names)}: name the one")
    for name in names:
        folder = fetch(name, limit, repo, revision)
        print(f"{name} is in {folder}.", flush=True)


def fetch(name: str, limit: int | None = None, repo: str | None = None, revision: str | None = None) -> Path:
    """Brings what is missing of a pinned source into its folder; returns the folder.

    `limit`: at most so many of the bulk of a data set's files (of Pick-a-Pic: of its training split). `repo`,
    `revision`: from elsewhere, such as a copy of one's own. Raises UserError: an unknown name, no network, no access,
    too little space, a folder that holds another revision.
    """
    if name not in PINNED:
        raise UserError(f"fetch: expected one of {', '.join(PINNED)}, got {name!r}")
    source = PINNED[name]
    if repo and repo != source.repo:
        source = replace(source, repo=repo, revision="main")
    source = replace(source, revision=revision or source.revision)
    with _hub_errors(source):
        commit = _commit(name, source)
        remotes = _select(source, commit, limit)
        missing = [remote for remote in remotes if not _is_here(name, remote)]
        _plan(source, commit, remotes, missing)
        download(f"fetch {name}", missing, lambda remote: _record(name, {remote.path: remote.checksum}))
    if source.kind == "model":
        # Checked whenever the model is loaded.
        places = {str(remote.target.relative_to(source.folder)): remote.checksum for remote in remotes}
        weights.note(source.folder, places)
    with suppress(OSError):  # it isn't there, or has parts of files that weren't asked for this time
        (source.folder / ".part").rmdir()
    return source.folder


def _commit(name: str, source: Pinned) -> str:
    """The full commit of the source's revision: from the lock file, else from the hub, once."""
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
    """The wanted files at a commit, in order of their paths; at most `limit` of those that it counts."""
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
    """Whether a file is in its place, whole: by the lock file, else by its checksum, which is then recorded."""
    if size_of(remote.target) != remote.size:
        return False
    if read_lock()[name]["files"].get(remote.path) != remote.checksum:
        if not remote.matches(remote.target):
            return False
        _record(name, {remote.path: remote.checksum})
    return True


def _plan(source: Pinned, commit: str, remotes: list[Remote], missing: list[Remote]) -> None:
    """Says what will be downloaded; raises UserError if the disk can't hold it."""
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
    """What was fetched: name -> {repo, revision, commit, files: {path on the hub: "sha256:..." or "git:..."}}."""
    return dict(json.loads(LOCK.read_text())) if LOCK.exists() else {}


def _record(name: str, done: dict[str, str], **pin: str) -> None:
    lock = read_lock()
    entry = lock.setdefault(name, {"files": {}})
    entry.update(pin)
    entry["files"].update(done)
    files.write_json(LOCK, lock)


@contextmanager
def _hub_errors(source: Pinned) -> Iterator[None]:
    """Turns what the user can mend into a UserError: no network, no access, no such repository or revision."""
    import httpx2
    from huggingface_hub import errors

    where = f"{source.repo} (a {source.kind} on {os.environ.get('HF_ENDPOINT', 'https://huggingface.co')})"
    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise UserError(
            f"{where} needs the network, but HF_HUB_OFFLINE is set. Unset it; or fetch on another machine and copy "
            f"{source.folder} and {LOCK} here."
        ) from None
    except errors.GatedRepoError:
        raise UserError(f"{where} asks for consent. Accept its terms in a browser, then set HF_TOKEN.") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{where} isn't there, or isn't public. Name a copy (--repo OWNER/NAME), or set HF_TOKEN if it's private."
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{where} has no revision {source.revision}. Name another: --revision COMMIT") from None
    except (errors.HfHubHTTPError, httpx2.TransportError) as error:
        raise UserError(
            f"{where} can't be reached, or broke off: {error}. What has arrived is kept: run the same command again."
        ) from None
