"""Runs the arena's server until it's stopped: `python pipeline.py arena`."""

import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

import uvicorn

from arena import app, material
from arena.access import Access
from arena.plan import Settings
from arena.session import Sessions
from arena.store import Store
from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND

FOLDER = Path("data/arena")
DATABASE, COPIES = FOLDER / "arena.db", FOLDER / "images"
GALLERIES = Path("images")
CONNECTIONS = 1024
GRACE = 5
"""Seconds in which requests end after a stop."""


def serve(
    names: Sequence[str], settings: Settings, host: str, port: int, new_token: bool, of_round: str | None = None
) -> str:
    """Serves votes over some policies' images, all if none is named, until SIGINT or SIGTERM; returns the last words.

    With `of_round`, over a round's images instead. Raises UserError: the policies can't be compared, the port is in
    use.
    """
    listening = listen(host, port)
    if of_round:
        pairs, noise = material.gather_round(of_round, COPIES)
        names = [f"round {of_round}"]
    else:
        names = names or material.names_in(GALLERIES)
        pairs, noise = material.gather(names, GALLERIES, COPIES)
    store = Store(DATABASE)
    if new_token:
        store.forget("token")
    access = Access(store.secret("secret"), store.secret("token"))
    sessions = Sessions(store, access, pairs, noise, settings, COPIES)
    sys.stdout.write(f"{len(pairs)} pairs of {', '.join(names)}; a rater gets {min(settings.limit, len(pairs))}\n")
    sys.stdout.write(f"Send raters this link; it lets in whoever has it. Ctrl-C ends.\n  {link(host, port, access)}\n")
    if host not in ("127.0.0.1", "localhost", "::1"):
        sys.stdout.write("This address isn't loopback, and nothing is encrypted: use it in a network that you trust.\n")
    sys.stdout.flush()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # uvicorn handles both, and raises them again at its end
    config = uvicorn.Config(
        app.make(access, sessions),
        log_level="warning",
        access_log=False,  # the token isn't for logs
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE,
    )
    uvicorn.Server(config).run(sockets=[listening])
    votes, raters = store.counts()
    store.close()
    return f"{votes} answers of {raters} raters are in {DATABASE}. Next: {COMMAND} collect"


def listen(host: str, port: int) -> socket.socket:
    """Opens the port; raises UserError where that can't be."""
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(CONNECTIONS)
    except OSError as error:
        found.close()
        raise UserError(
            f"arena: expected a free port at {host}:{port}, found: {error.strerror or error}. Choose another: --port N"
        ) from None
    return found


def link(host: str, port: int, access: Access) -> str:
    """Returns the address with the token; of all addresses of the machine the loopback one."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}/?{urlencode({'token': access.token})}"
