"""The arena's pages: joining, voting, undoing, images. Every answer is on the disk before it's acknowledged."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arena.access import NAME, Access, Session, new_session
from arena.session import Sessions
from arena.store import Conflict
from diffalign.data.votes import ANSWERS, QUESTIONS

HERE = Path(__file__).parent
STATIC = {"arena.js": "text/javascript", "arena.css": "text/css"}
LARGEST = 4096
"""Bytes of a request's body, at most."""
MONTH = 30 * 24 * 3600
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Headers:
    """Adds `HEADERS` to every answer that doesn't set them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and its answer back with the headers."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, sent)


class Pages:
    """The handlers of all addresses."""

    def __init__(self, access: Access, sessions: Sessions) -> None:
        self.access, self.sessions = access, sessions
        templates = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True)
        self.page = {name: templates.get_template(f"{name}.html") for name in ("closed", "join", "vote")}

    async def home(self, request: Request) -> Response:
        """Shows the page that fits: to vote, to join; with the link's token gives a cookie and drops the token."""
        session = self.access.session(request)
        if "token" in request.query_params:
            if not self.access.admits(request.query_params["token"]):
                return HTMLResponse(self.page["closed"].render(wrong=True), 403)
            return self._home(request, session or new_session())
        if session is None:
            return HTMLResponse(self.page["closed"].render(wrong=False), 403)
        csrf = self.access.csrf(session)
        if not session.rater:
            return HTMLResponse(self.page["join"].render(csrf=csrf, longest=NAME))
        return HTMLResponse(self.page["vote"].render(csrf=csrf, rater=session.rater))

    async def join(self, request: Request) -> Response:
        """Makes the browser a rater's, by a nickname that is hashed and forgotten."""
        fields = await form(request)
        session = self._ours(request, fields.get("csrf", [""])[0])
        rater = self.access.rater(fields.get("name", [""])[0])
        if rater is None:
            csrf = self.access.csrf(session)
            return HTMLResponse(self.page["join"].render(csrf=csrf, longest=NAME, refused=True), 422)
        return self._home(request, Session(session.nonce, rater))

    async def leave(self, request: Request) -> Response:
        """Lets another rater use the browser."""
        fields = await form(request)
        session = self._ours(request, fields.get("csrf", [""])[0])
        return self._home(request, Session(session.nonce, ""))

    async def state(self, request: Request) -> Response:
        """Returns the next question, as JSON."""
        return await self._state(self._rater(request))

    async def vote(self, request: Request) -> Response:
        """Keeps an answer and returns the next question; 409 where another answer was given before."""
        rater, said = await self._said(request, ("task", "question", "answer"))
        if said["question"] not in QUESTIONS or said["answer"] not in ANSWERS:
            raise HTTPException(422, "no such question or answer")
        try:
            known = await run_in_threadpool(self.sessions.vote, rater, said["task"], said["question"], said["answer"])
        except Conflict:
            raise HTTPException(409, "this question was answered before, otherwise") from None
        if not known:
            raise HTTPException(404, "no such task")
        return await self._state(rater)

    async def undo(self, request: Request) -> Response:
        """Takes the last answer back, if it's the one that is meant, and returns the next question."""
        rater, said = await self._said(request, ("vote",))
        await run_in_threadpool(self.sessions.undo, rater, said["vote"])
        return await self._state(rater)

    async def image(self, request: Request) -> Response:
        """Returns an image of the rater's own plan."""
        data = await run_in_threadpool(self.sessions.image, self._rater(request), request.path_params["name"])
        if data is None:
            raise HTTPException(404, "no such image")
        return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})

    async def static(self, request: Request) -> Response:
        """Returns the script or the style; no other file."""
        name = request.path_params["name"]
        if name not in STATIC:
            raise HTTPException(404, "no such file")
        return Response((HERE / "static" / name).read_bytes(), media_type=STATIC[name])

    def _home(self, request: Request, session: Session) -> Response:
        """Sends the browser to the page, without what its address held, with a session's cookie."""
        answer = RedirectResponse("./", 303)
        secure = request.url.scheme == "https"
        value = self.access.pack(session)
        answer.set_cookie(self.access.cookie, value, MONTH, httponly=True, secure=secure, samesite="lax")
        return answer

    async def _state(self, rater: str) -> Response:
        return JSONResponse(await run_in_threadpool(self.sessions.state, rater))

    async def _said(self, request: Request, keys: tuple[str, ...]) -> tuple[str, dict[str, str]]:
        """Returns the rater and the JSON of a request that changes something."""
        session = self._ours(request, request.headers.get("x-csrf", ""))
        rater = self._rater(request, session)
        try:
            said = json.loads(await body(request))
        except (ValueError, RecursionError):
            raise HTTPException(400, "expected JSON") from None
        if not isinstance(said, dict) or any(not isinstance(said.get(key), str) for key in keys):
            raise HTTPException(422, f"expected texts {', '.join(keys)}")
        return rater, said

    def _ours(self, request: Request, csrf: str) -> Session:
        session = self.access.session(request)
        if session is None or not self.access.is_ours(request, session, csrf):
            raise HTTPException(403, "not from this page: load it again")
        return session

    def _rater(self, request: Request, session: Session | None = None) -> str:
        session = session or self.access.session(request)
        if session is None or not session.rater:
            raise HTTPException(403, "join first: load the page again")
        return session.rater


async def form(request: Request) -> dict[str, list[str]]:
    """Returns a form's fields; refuses one with more than four."""
    try:
        return parse_qs((await body(request)).decode(errors="replace"), max_num_fields=4)
    except ValueError:
        raise HTTPException(400, "expected a form of few fields") from None


async def body(request: Request) -> bytes:
    """Returns a request's body; refuses one that is larger than `LARGEST`, before it's read to the end."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > LARGEST:
            raise HTTPException(413, "too large")
    return data


async def refused(request: Request, error: Exception) -> Response:
    """Answers an error in a line of JSON."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


def make(access: Access, sessions: Sessions) -> ASGIApp:
    """Builds the application."""
    pages = Pages(access, sessions)
    handlers: dict[str, tuple[str, Callable[[Request], Awaitable[Any]]]] = {
        "/": ("GET", pages.home),
        "/join": ("POST", pages.join),
        "/leave": ("POST", pages.leave),
        "/state": ("GET", pages.state),
        "/vote": ("POST", pages.vote),
        "/undo": ("POST", pages.undo),
        "/image/{name}": ("GET", pages.image),
        "/static/{name}": ("GET", pages.static),
    }
    routes = [Route(path, handler, methods=[method]) for path, (method, handler) in handlers.items()]
    return Headers(Starlette(routes=routes, exception_handlers={HTTPException: refused}))
