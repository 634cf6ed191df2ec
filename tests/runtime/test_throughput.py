"""A training's pace: its steps' seconds without what lies between them, and the share of waiting for batches."""

from collections.abc import Iterator

import pytest

from diffalign.runtime import throughput


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_steps_are_timed_without_the_first_and_without_what_lies_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches a step, 2 s to make and 3 s to learn from each, 5 s to step: 15 s, of which 4 s are waited."""
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)

    def read(make: object, step: int) -> Iterator[int]:
        for n in (0, 1):
            clock.now += 2 if step else 50
            yield 10 * step + n

    pace, seen = throughput.Throughput(), []
    timed = pace.timed(read)
    assert pace.facts() == {"steps": 0, "seconds": 0.0, "waited": 0.0}
    for step in range(4):
        with pace.step():
            for batch in timed(lambda step: [], step):
                seen.append(batch)
                clock.now += 3
            clock.now += 5
        clock.now += 100  # a probe, a checkpoint
    assert seen == [0, 1, 10, 11, 20, 21, 30, 31]
    assert pace.facts() == {"steps": 3, "seconds": 45.0, "waited": pytest.approx(4 / 15)}
