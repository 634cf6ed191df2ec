"""Asks a service over HTTP: JSON there and back, at a limited rate, several questions at a time, tried again.

What fails is missing and said; it is never a score. A token comes from the environment and is shown nowhere.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from diffalign.core.errors import Outage, UserError

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a question is asked again: the first pause, doubled each time up to the longest."""
AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Statuses of a service that is busy or broken for the moment."""
REFUSED = {401: "the token", 403: "the token", 404: "the address", 405: "the address"}
"""Statuses that will be the same for every question, and what they are about."""
GIVE_UP = 10
"""Questions in a row without an answer that end the run."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
SHOWN = 200
"""Characters of a service's words that a message shows."""

Q = TypeVar("Q")
A = TypeVar("A")


class Settings(Protocol):
    """The settings that rewards over HTTP share."""

    @property
    def url(self) -> str:
        """Returns the address."""

    @property
    def token_variable(self) -> str | None:
        """Returns the environment variable that holds the token; None where the service wants none."""

    @property
    def per_minute(self) -> int | None:
        """Returns the most requests in a minute; None for no limit."""

    @property
    def parallel(self) -> int:
        """Returns the most requests at a time."""

    @property
    def timeout(self) -> float:
        """Returns the seconds that an answer may take."""

    @property
    def retries(self) -> int:
        """Returns how often a question is asked again."""


class Failed(Exception):
    """Says why a question has no answer."""


class Service:
    """Posts JSON to one address; `reward` names its user in messages."""

    def __init__(self, reward: str, settings: Settings, path: str = "") -> None:
        self.reward, self.url, self.retries = reward, settings.url.rstrip("/") + path, settings.retries
        self.token = read_token(reward, settings.token_variable)
        if self.token and self.url.startswith("http://") and urlsplit(self.url).hostname not in LOOPBACK:
            sys.stderr.write(f"rewards.{reward}.url: {self.url} isn't https: the token goes there in plain sight.\n")
        self.pace, self.parallel = Pace(settings.per_minute), settings.parallel
        self.lock, self.in_a_row, self.timeout = threading.Lock(), 0, settings.timeout
        self.stopped = threading.Event()

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Keeps connections to the service open for a block."""
        import httpx2

        with httpx2.Client(
            timeout=self.timeout,
            headers={"Authorization": f"Bearer {self.token}"} if self.token else {},
            # A proxy of the environment has no business between this machine and itself.
            trust_env=urlsplit(self.url).hostname not in LOOPBACK,
        ) as self.client:
            yield

    def ask_all(self, questions: Sequence[Q], ask: Callable[[Q], A]) -> list[A | None]:
        """Returns `ask`'s answers in their order, None for each that raised `Failed`; how many, and why, is said.

        Raises UserError where the service refuses all alike, Outage where `GIVE_UP` questions in a row had no answer.
        """
        reasons: list[str] = []

        def one(question: Q) -> A | None:
            if self.stopped.is_set():
                return None
            try:
                answer = ask(question)
            except Failed as failure:
                reasons.append(str(failure))
                self.count(str(failure))
                return None
            except BaseException:
                self.stopped.set()
                raise
            self.in_a_row = 0
            return answer

        with self.connected():
            pool = ThreadPoolExecutor(self.parallel)
            self.stopped.clear()
            try:
                answers = list(pool.map(one, questions))
            finally:
                self.stopped.set()  # an interrupt ends the pauses, too
                pool.shutdown(cancel_futures=True)
        if reasons:
            sys.stderr.write(
                f"{self.reward}: {len(reasons)} of {len(questions)} questions have no answer, the last: {reasons[-1]}\n"
            )
        return answers

    def count(self, reason: str) -> None:
        """Counts a question without an answer; Outage where there are too many in a row."""
        with self.lock:
            self.in_a_row += 1
            if self.in_a_row >= GIVE_UP:
                self.stopped.set()
                raise Outage(
                    f"rewards.{self.reward}.url: expected answers of {self.url}, found none to the last "
                    f"{self.in_a_row} questions: {reason}. See that it runs, and run the same command again: what it "
                    "has answered is kept."
                )

    def post(self, body: Any) -> Any:
        """Returns the JSON that a body is answered with; `Failed` where there's none, after all attempts."""
        import httpx2

        for attempt in range(self.retries + 1):
            self.pace.wait()
            pause = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)
            try:
                response = self.client.post(self.url, json=body)
            except httpx2.TransportError as error:
                reason = f"{type(error).__name__}: {self.shown(str(error))}"
            else:
                if response.status_code == 200:
                    return decoded(response, self.shown)
                reason = f"status {response.status_code}: {self.shown(response.text)}"
                if response.status_code in REFUSED:
                    raise UserError(
                        f"rewards.{self.reward}: {self.url} refuses {REFUSED[response.status_code]} ({reason}). "
                        f"Correct url{' or the variable named by token_variable' if self.token else ''}."
                    )
                if response.status_code not in AGAIN:
                    raise Failed(reason)
                pause = max(pause, min(wanted_pause(response.headers.get("Retry-After", "")), LONGEST_PAUSE))
            if attempt < self.retries:
                self.stopped.wait(pause)
        raise Failed(f"{reason} ({self.retries + 1} attempts)")

    def shown(self, text: str) -> str:
        """Returns a service's words for a message: short, in one line, without the token."""
        line = " ".join(text.split())
        return (line.replace(self.token, "(token)") if self.token else line)[:SHOWN]


class Pace:
    """Spreads requests of all threads evenly: at most `per_minute`."""

    def __init__(self, per_minute: int | None) -> None:
        self.interval = 60 / per_minute if per_minute else 0.0
        self.lock, self.next = threading.Lock(), 0.0

    def wait(self) -> None:
        """Waits until the next request may start."""
        with self.lock:
            start = max(self.next, time.monotonic())
            self.next = start + self.interval
        time.sleep(max(start - time.monotonic(), 0))


def decoded(response: Any, shown: Callable[[str], str]) -> Any:
    """Returns a response's JSON; `Failed` where it's none."""
    try:
        return response.json()
    except ValueError as error:
        raise Failed(f"expected JSON, found {shown(response.text)!r}") from error


def wanted_pause(header: str) -> float:
    """Returns the seconds of a Retry-After header; 0 where it's missing or a date."""
    return float(header) if header.strip().isdecimal() else 0.0


def read_token(reward: str, variable: str | None) -> str:
    """Returns the token in an environment variable; UserError where that isn't set or is no token."""
    if variable is None:
        return ""
    token = os.environ.get(variable, "").strip()
    if not token or not token.isascii() or not token.isprintable():
        raise UserError(
            f"rewards.{reward}.token_variable: expected the service's token in the environment variable {variable}, "
            f"found {'something else there' if token else 'it unset or empty'}. Set it; or write null where the "
            "service wants no token."
        )
    return token
