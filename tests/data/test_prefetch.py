"""Work made ahead: the same items in the same order, on time, and errors where they belong."""

import gc
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from diffalign.data.batches.prefetch import Prefetcher, ahead, when_asked
from tests.helpers.memory_batches import source


def items(step: int) -> Iterator[tuple[int, int]]:
    return iter([(step, i) for i in range(3)])


def test_the_same_items_in_the_same_order() -> None:
    assert list(ahead(range(100), 3)) == list(range(100))
    assert list(ahead([], 2)) == []


def test_it_makes_so_many_ahead_and_no_more() -> None:
    made, before = [], set(threading.enumerate())

    def slow() -> Iterator[int]:
        for i in range(10):
            made.append((i, threading.current_thread().name))
            yield i

    reader = ahead(slow(), 2)
    assert next(reader) == 0
    deadline = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert [i for i, _ in made] == [0, 1, 2]
    assert all(thread.startswith("ahead") for _, thread in made)
    reader.close()
    deadline = time.monotonic() + 10
    while not set(threading.enumerate()) <= before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert set(threading.enumerate()) <= before


def test_an_error_comes_up_in_its_items_place() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    reader = ahead(broken(), 2)
    assert next(reader) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(reader)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 3], [1, 1, 3, 0]])
def test_steps_are_what_they_are_without_it(order: list[int]) -> None:
    reader: Prefetcher[tuple[int, int]] = Prefetcher(end=4)
    for step in order:
        assert list(reader(items, step)) == list(when_asked(items, step))


@pytest.mark.parametrize("order", [[0, 0, 1, 1, 2, 2], [1, 1, 2, 3, 3], [0, 0, 0, 1]])
def test_a_step_read_twice_is_made_ahead_twice(order: list[int]) -> None:
    """As Diffusion-KTO reads it; nothing is thrown away where each is read so."""
    made: list[int] = []

    def make(step: int) -> Iterator[tuple[int, int]]:
        made.append(step)
        return items(step)

    reader: Prefetcher[tuple[int, int]] = Prefetcher(end=4, passes=2)
    for step in order:
        assert list(reader(make, step)) == list(items(step))
    if order[:4] == [0, 0, 1, 1]:
        assert made[: len(order)] == order


def test_a_step_left_in_the_middle_begins_anew() -> None:
    reader: Prefetcher[tuple[int, int]] = Prefetcher(end=4)
    first = reader(items, 0)
    assert next(first) == (0, 0)
    assert list(reader(items, 1)) == [(1, 0), (1, 1), (1, 2)]


def test_the_next_step_is_made_while_this_one_is_used() -> None:
    made = []

    def make(step: int) -> Iterator[int]:
        made.append(step)
        yield step

    reader: Prefetcher[int] = Prefetcher(end=2)
    assert next(reader(make, 0)) == 0
    deadline = time.monotonic() + 10
    while made != [0, 1] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made == [0, 1]


def test_batches_made_ahead_are_the_same_bits() -> None:
    plain, threaded = source(micro_batch_size=2), source(micro_batch_size=2, read=Prefetcher(end=3))
    for step in range(3):
        for one, other in zip(plain.at(step), threaded.at(step), strict=True):
            for name in ("x_t", "t", "target", "strength", "weight"):
                assert torch.equal(getattr(one, name), getattr(other, name))
            assert all(torch.equal(value, other.cond[name]) for name, value in one.cond.items())


def test_a_reader_that_its_batches_refer_to_is_collected() -> None:
    """A source has its reader, whose stream has the source; nothing is said when the collector takes them."""
    gc.freeze()  # the collector then walks over what the test made, not over torch
    try:
        for _ in range(20):
            threaded = source(micro_batch_size=2, read=Prefetcher(end=3))
            for step in range(3):
                assert list(threaded.at(step))
            del threaded
            gc.collect()
    finally:
        gc.unfreeze()
