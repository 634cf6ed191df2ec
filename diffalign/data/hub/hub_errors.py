"""The hub's errors that a user can mend, as messages."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffalign.core.errors import UserError


@contextmanager
def hub_errors(repo: str, kind: str, revision: str, folder: Path) -> Iterator[None]:
    """Raises UserError for the hub's errors that a user can fix: no network, no access, no repository or revision."""
    import httpx2
    from huggingface_hub import errors

    where = f"{repo} (a {kind} on {os.environ.get('HF_ENDPOINT', 'https://huggingface.co')})"
    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise UserError(
            f"{where} needs the network, but HF_HUB_OFFLINE is set. Unset it; or fetch on another machine and copy "
            f"{folder} and data/raw/fetch.lock.json here."
        ) from None
    except errors.GatedRepoError:
        raise UserError(f"{where} asks for consent. Accept its terms in a browser, then set HF_TOKEN.") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{where} isn't there, or isn't public. Name a copy (--repo OWNER/NAME), or set HF_TOKEN if it's private."
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{where} has no revision {revision}. Name another: --revision COMMIT") from None
    except (errors.HfHubHTTPError, httpx2.TransportError) as error:
        raise UserError(
            f"{where} can't be reached, or broke off: {error}. What has arrived is kept: run the same command again."
        ) from None
