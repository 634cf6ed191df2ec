"""Prefetching: items are made in a background thread before they are needed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
Make = Callable[[int], Iterable[T]]
"""From a step (0, 1, ...) to its items; a function of the step alone."""


def ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """Yields the items, made in a thread up to `depth` in advance; an error is raised in its item's place."""
    source, end = iter(items), object()
    thread = ThreadPoolExecutor(1, "ahead")
    try:
        waiting = deque(thread.submit(next, source, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, source, end))
            yield item  # type: ignore[misc]
    finally:  # no wait: where a batch refers back to its reader, the garbage collector ends this in that very thread
        thread.shutdown(wait=False, cancel_futures=True)


class Prefetcher(Generic[T]):
    """Makes the items of steps in a thread that goes on into the next step, up to step `end`.

    For one `make` and one reader, who reads each step `passes` times before the next. If a different
    step is requested, prefetching restarts from it.
    """

    def __init__(self, end: int, depth: int = 2, passes: int = 1) -> None:
        self.end, self.depth, self.passes = end, depth, passes
        self.stream: Iterator[T | None] = iter(())
        self.next: int | None = None  # the due one of all readings, `passes` a step

    def __call__(self, make: Make[T], step: int) -> Iterator[T]:
        """Yields the items of a step."""
        if self.next is None or self.next // self.passes != step:
            self.next = step * self.passes
            steps = (reading // self.passes for reading in range(self.next, self.end * self.passes))
            self.stream = ahead(marked(make, steps), self.depth)
        following, self.next = self.next + 1, None  # until the step is read to its end
        while (item := next(self.stream)) is not None:
            yield item
        self.next = following


def marked(make: Make[T], steps: Iterable[int]) -> Iterator[T | None]:
    """Yields the items of all steps, and None after each step's."""
    for step in steps:
        yield from make(step)
        yield None


def when_asked(make: Make[T], step: int) -> Iterator[T]:
    """Yields the items of a step, each made when it is requested."""
    return iter(make(step))
