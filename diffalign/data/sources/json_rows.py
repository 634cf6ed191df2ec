"""Reads untrusted JSON files item by item: an array of any length, or JSON Lines, within a bound on memory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from diffalign.core.errors import UserError

CHUNK = 2**20
MOST = 32 * 2**20
"""Characters of the largest item."""


def read(path: Path) -> Iterator[Any]:
    """Yields the items of a file that holds an array, or one value a line; UserError, without its name, for others."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from _Items(file)
    except (ValueError, RecursionError, OSError) as error:
        words = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise UserError(f"not JSON, damaged or cut short: {words}") from error


def values(path: Path, key: str) -> Iterator[Any]:
    """Yields the value under a key of each item that is an object, None where it has none."""
    return (item.get(key) for item in read(path) if isinstance(item, dict))


class _Items:
    """Decodes items from the beginning of a buffer that is filled as far as the next item needs."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self.text, self.at, self.ended = file, "", 0, False
        self.decoder = json.JSONDecoder()

    def __iter__(self) -> Iterator[Any]:
        array = self._next() == "["
        self.at += array
        if array and self._next() == "]":
            self.at += 1
            return self._end()
        while self._next():
            yield self._item()
            mark = self._next()
            if array and mark not in (",", "]"):
                raise ValueError(f"expected , or ] after an item, found {mark!r}")
            self.at += array
            if mark == "]":
                return self._end()
        if array:
            raise ValueError("the array doesn't end")
        return None

    def _item(self) -> Any:
        while True:
            try:
                item, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError:
                if self.ended or len(self.text) - self.at > MOST:
                    raise
            else:
                # A number may go on in the next chunk.
                if end < len(self.text) or self.ended:
                    self.at = end
                    return item
            self._more(len(self.text) - self.at)

    def _next(self) -> str:
        """Skips white space; returns the character there, "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self._more(0)

    def _more(self, least: int) -> None:
        # At least as much again, so that a large item is decoded a few times only.
        found = self.file.read(max(CHUNK, least))
        self.ended = not found
        self.text, self.at = self.text[self.at :] + found, 0

    def _end(self) -> None:
        if rest := self._next():
            raise ValueError(f"expected nothing after the array, found {rest!r}")
