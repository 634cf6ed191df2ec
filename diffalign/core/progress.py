"""Shows progress with an ETA: one line that moves on a terminal, a line now and then in a log."""

import re
import sys
import time
from typing import NamedTuple

LINE = re.compile(r"(?P<what>[^:]+): (?P<done>\d+)/(?P<total>\d+) \((?P<rest>[\d.]+/s, ETA [\d:?]+)\) ?(?P<extra>.*)")
"""A line as Progress prints it in a log."""


class Reading(NamedTuple):
    """Holds what a line of progress says: of what, how many of how many units are done, rate and ETA, the rest."""

    what: str
    done: int
    total: int
    rest: str


def read(line: str) -> Reading | None:
    """Returns what a line of a log says if Progress printed it, else None."""
    found = LINE.fullmatch(line.strip())
    if found is None:
        return None
    rest = ", ".join(part for part in (found["rest"], found["extra"]) if part)
    return Reading(found["what"], int(found["done"]), int(found["total"]), rest)


class Progress:
    """Reports `done` of `total` units on stderr; `extra` is shown behind it. Times are in seconds.

    On a terminal the line is redrawn at most five times a second; elsewhere a line is printed every `every` seconds,
    and at the end.
    """

    def __init__(self, what: str, total: int, done: int = 0, every: float = 10.0) -> None:
        self.what, self.total, self.done, self.first = what, total, done, done
        self.terminal = sys.stderr.isatty()
        self.every = 0.2 if self.terminal else every
        self.start = self.last = time.monotonic()

    def update(self, count: int = 1, extra: str = "") -> None:
        """Counts `count` more units as done and shows the state if it's time to."""
        self.done += count
        now = time.monotonic()
        if now - self.last < self.every and self.done < self.total:
            return
        self.last = now
        rate = (self.done - self.first) / max(now - self.start, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        line = f"{self.what}: {self.done}/{self.total} ({rate:.1f}/s, ETA {clock(left)}) {extra}".rstrip()
        end = "\n" if self.done >= self.total or not self.terminal else ""
        sys.stderr.write(f"\r\x1b[2K{line}{end}" if self.terminal else f"{line}\n")
        sys.stderr.flush()


def clock(seconds: float) -> str:
    """Returns seconds as h:mm:ss or m:ss, `?` where they aren't finite."""
    if seconds == float("inf") or seconds != seconds:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
