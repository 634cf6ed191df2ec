"""Measures how fast a training steps, without probes and saves, and what share of that it waits for batches."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
Make = Callable[[int], Iterable[T]]
Read = Callable[[Make[T], int], Iterator[T]]
"""(how a step's batches are made, the step) -> its batches."""


class Throughput:
    """Times optimizer steps, and how long they wait for batches; the first one warms up and isn't counted."""

    def __init__(self) -> None:
        self.warm = False
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        self.reading = 0.0  # seconds, of the present step

    def timed(self, read: Read[T]) -> Read[T]:
        """Returns a reader that reads as `read` does and adds what it waits to the present step."""

        def reading(make: Make[T], step: int) -> Iterator[T]:
            batches, end = iter(read(make, step)), object()
            while True:
                begun = time.monotonic()
                batch = next(batches, end)
                self.reading += time.monotonic() - begun
                if batch is end:
                    return
                yield batch  # type: ignore[misc]

        return reading

    @contextmanager
    def step(self) -> Iterator[None]:
        """Times an optimizer step, the block."""
        self.reading, begun = 0.0, time.monotonic()
        yield
        if self.warm:
            self.steps += 1
            self.seconds += time.monotonic() - begun
            self.waited += self.reading
        self.warm = True

    def facts(self) -> dict[str, float]:
        """Returns the steps, their seconds, and the share of these that was spent waiting for batches."""
        return {
            "steps": self.steps,
            "seconds": self.seconds,
            "waited": self.waited / self.seconds if self.steps else 0.0,
        }
