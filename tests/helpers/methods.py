"""Methods for tests, built by their settings on a source of the test's own."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from diffalign.config.training import Trained
from diffalign.core import axes
from diffalign.methods.method import Old, Source


def settings(method: str, **changes: Any) -> Trained:
    """A method's settings with some values; those that nobody looks at aren't there."""
    found: Trained = axes.load("diffalign.config.methods", method).Settings.model_construct(method=method, **changes)
    return found


@dataclass(frozen=True)
class Offers:
    """A run that offers one source, whichever is asked for."""

    offered: Any

    def source(self, kind: type[Source], passes: int = 1) -> Source:
        found: Source = self.offered
        return found

    def old(self) -> Old:
        return NoOld()


class NoOld:
    """Old weights that nobody looks at."""

    def keep(self, share: float = 0.0) -> None: ...

    def put_back(self) -> AbstractContextManager[None]:
        return nullcontext()
