"""Uploads a folder to the hub as one commit; what an earlier, killed upload brought there isn't sent again."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffalign.core.errors import UserError
from diffalign.core.progress import Progress
from diffalign.data.hub.download import gigabytes

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
TOKEN = (
    "Make one with the right to write at https://huggingface.co/settings/tokens, then: export HF_TOKEN=..., or log in: "
    "hf auth login"
)


def check(repo: str) -> None:
    """Raises UserError unless `repo` is OWNER/NAME and the environment, or a login, has a token for the hub."""
    from huggingface_hub import get_token

    if not REPO.fullmatch(repo) or ".." in repo or "--" in repo or len(repo) > 96 or repo.endswith((".git", "-", ".")):
        raise UserError(f"push: expected OWNER/NAME, as the hub allows them, got {repo!r}")
    if not get_token():
        raise UserError(f"push: expected a token for the hub, found none. {TOKEN}")


def upload(repo: str, folder: Path, private: bool, message: str) -> str:
    """Makes the repository where there is none and commits the folder's files to it; returns the commit's address.

    Large files go first, one by one, to the hub's store, which keeps what it has got: after a kill only what is missing
    is sent. Files that the repository has besides stay. Raises UserError for no access, no network, an invalid head of
    the model card.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    additions = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in paths]
    api, progress = HfApi(), Progress(f"push {repo}", len(additions))
    with push_errors(repo):
        api.create_repo(repo, private=private or None, exist_ok=True)
        sent = 0
        for addition, path in zip(additions, paths, strict=True):
            api.preupload_lfs_files(repo, [addition], free_memory=False)
            sent += path.stat().st_size
            progress.update(1, f"{gigabytes(sent)}")
        commit = api.create_commit(repo, additions, commit_message=message)
    return str(commit.commit_url)


@contextmanager
def push_errors(repo: str) -> Iterator[None]:
    """Raises UserError for the errors of an upload that a user can mend."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise UserError(f"push: {repo} needs the network, but HF_HUB_OFFLINE is set. Unset it.") from None
    except errors.HfHubHTTPError as error:
        raise refused(repo, error) from None
    except ValueError as error:  # the hub's check of the model card
        raise UserError(f"push: {error} Correct it, and push again.") from None
    except (httpx2.TransportError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, errors.HfHubHTTPError):
            raise refused(repo, cause) from None
        if not isinstance(cause, httpx2.TransportError):
            raise
        raise UserError(
            f"push: {endpoint()} can't be reached, or broke off: {str(cause).rstrip('.')}. What has arrived is "
            "kept: run the same command again."
        ) from None


def refused(repo: str, error: Any) -> UserError:
    """Returns the error for an answer of the hub's that isn't a success."""
    status = error.response.status_code
    if status == 401:
        return UserError(f"push: {endpoint()} doesn't accept the token. {TOKEN}")
    if status == 403:
        owner = repo.partition("/")[0]
        return UserError(f"push: the token may not write to {repo}: is {owner} you, or one of yours? {TOKEN}")
    return UserError(
        f"push: {endpoint()} answered {status} for {repo}: {str(error).strip().rstrip('.')}. What has arrived "
        "is kept: run the same command again."
    )


def endpoint() -> str:
    """Returns the hub's address."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")
