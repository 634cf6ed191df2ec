"""The garbage collector is rare while a process loads, as usual afterwards, and doesn't walk at the end."""

import subprocess
import sys

from tests.helpers.project import REPO

PROGRAM = """
import atexit, gc
from diffalign.core import collector
before = gc.get_threshold()
atexit.register(lambda: print(gc.get_freeze_count() > 1000))  # runs after what is registered later
collector.rare_while_loading()
print(gc.get_threshold()[0] == 50_000)
collector.usual()
print(gc.get_threshold() == before)
"""


def test_walks_are_rare_then_usual_and_left_out_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3, done.stderr
