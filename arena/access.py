"""Who may vote: a token in the link, a signed cookie afterwards, and requests from the arena's own page only."""

import hashlib
import hmac
import secrets
import unicodedata
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import Request

NAME = 40
"""Characters of a nickname, at most."""


@dataclass(frozen=True)
class Session:
    """A browser that came with the token: a number of its own, and its rater, "" before one has joined."""

    nonce: str
    rater: str


class Access:
    """Signs and checks, with a secret and a token that the database keeps. All comparisons take constant time."""

    def __init__(self, secret: str, token: str) -> None:
        self.secret, self.token = secret.encode(), token
        self.cookie = f"arena_{self.sign('cookie')[:8]}"  # arenas on other ports of one host have other cookies

    def sign(self, *parts: str) -> str:
        """Returns a keyed hash of some texts, 64 hex digits: nobody without the secret can make or guess it."""
        return hmac.new(self.secret, repr(parts).encode(), hashlib.sha256).hexdigest()

    def admits(self, token: str) -> bool:
        """Tells whether a token is the arena's."""
        return _equal(token, self.token)

    def rater(self, nickname: str) -> str | None:
        """Returns a rater's id, a salted hash of a nickname; None for one that is empty, too long or not printable.

        Case, spaces and Unicode form don't matter. The nickname itself is kept nowhere.
        """
        name = " ".join(unicodedata.normalize("NFKC", nickname).casefold().split())
        if not 0 < len(name) <= NAME or not name.isprintable():
            return None
        return f"r-{self.sign('rater', name)[:16]}"

    def pack(self, session: Session) -> str:
        """Returns a session as the value of a cookie; another token makes it invalid."""
        return f"{session.nonce}.{session.rater}.{self._seal(session)}"

    def session(self, request: Request) -> Session | None:
        """Returns the session of a request's cookie; None without a valid one."""
        parts = request.cookies.get(self.cookie, "").split(".")
        if len(parts) != 3:
            return None
        session = Session(parts[0], parts[1])
        return session if _equal(parts[2], self._seal(session)) else None

    def csrf(self, session: Session) -> str:
        """Returns the text that a page must send along to change something."""
        return self.sign("csrf", session.nonce, session.rater)

    def is_ours(self, request: Request, session: Session, csrf: str) -> bool:
        """Tells whether a request that changes something comes from the arena's own page in this session."""
        return same_origin(request) and _equal(csrf, self.csrf(session))

    def _seal(self, session: Session) -> str:
        return self.sign("session", session.nonce, session.rater, self.token)


def new_session() -> Session:
    """Returns a session without a rater."""
    return Session(secrets.token_hex(16), "")


def same_origin(request: Request) -> bool:
    """Tells whether a browser says that a request comes from the page's own origin; without a word it doesn't.

    Sec-Fetch-Site is missing where the address is neither https nor loopback: there Origin must name the Host.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = urlsplit(request.headers.get("origin", ""))
    return origin.scheme in ("http", "https") and _equal(origin.netloc, request.headers.get("host", ""))


def _equal(one: str, other: str) -> bool:
    return bool(other) and hmac.compare_digest(one.encode(errors="replace"), other.encode(errors="replace"))
