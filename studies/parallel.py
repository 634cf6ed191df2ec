"""Makes several runs of a study at a time, each in a process with its share of the CPU's threads.

A small model trains hardly faster on two threads than on one, so that two runs beside each other take little more than
half of the time.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context

from diffalign.runtime.environment import default_device
from diffalign.runtime.processes import die_with_parent
from studies.job import Study
from studies.kept import Result

THREADS = "OMP_NUM_THREADS"
Make = Callable[[Study, str], Result]
"""Makes a run by its name, keeps its results and returns them: a function of a module, since processes import it."""


def usual_jobs() -> int:
    """Returns how many runs are made at a time: on a CPU one a core, on a GPU one."""
    return 1 if default_device() != "cpu" else len(os.sched_getaffinity(0))


def made(make: Make, job: Study, names: Sequence[str], jobs: int) -> Iterator[tuple[str, Result]]:
    """Makes runs with `make`, `jobs` at a time, and yields each with its results as it ends.

    A single one has its share of threads, too: images made by as many threads are equal to the bit where weights are.
    An error of one ends all: those at work finish, or save where they are on a Ctrl-C; none begins after it.
    """
    if jobs == 1 or not names:
        yield from ((name, make(job, name)) for name in names)
        return
    with (
        shared_threads(jobs),
        ProcessPoolExecutor(min(jobs, len(names)), get_context("spawn"), die_with_parent) as pool,
    ):
        waiting = {pool.submit(make, replace(job), name): name for name in names}  # without what `job` has loaded
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def shared_threads(jobs: int) -> Iterator[None]:
    """Gives processes that start meanwhile each its share of the cores, unless OMP_NUM_THREADS says how many."""
    if os.environ.get(THREADS):
        yield
        return
    os.environ[THREADS] = str(max(len(os.sched_getaffinity(0)) // jobs, 1))
    try:
        yield
    finally:
        del os.environ[THREADS]
