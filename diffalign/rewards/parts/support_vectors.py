"""A support vector regression with a radial kernel, read from libsvm's text format and evaluated with numpy.

Legend: B rows, S support vectors, F features.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffalign.core.errors import UserError

Floats = NDArray[np.float64]
KIND = {"svm_type": "epsilon_svr", "kernel_type": "rbf"}


@dataclass(frozen=True)
class Regression:
    """`vectors` [S, F], their `weights` [S], the kernel's `gamma`, and the offset `rho` that is taken off."""

    vectors: Floats
    weights: Floats
    gamma: float
    rho: float

    def __call__(self, rows: Floats) -> Floats:
        """Returns Σ w exp(-γ |x - v|²) - ρ for each of the rows [B, F]."""
        distances = ((rows[:, None, :] - self.vectors[None]) ** 2).sum(axis=2)
        found: Floats = np.exp(-self.gamma * distances) @ self.weights - self.rho
        return found


def read(file: Path, features: int) -> Regression:
    """Reads a model's file; UserError unless it's an ε-SVR with a radial kernel on that many features."""
    head, _, body = file.read_text("ascii").partition("\nSV\n")
    said = dict(line.split(maxsplit=1) for line in head.splitlines() if " " in line)
    if {key: said.get(key) for key in KIND} != KIND:
        raise UserError(f"{file}: expected libsvm's text with {KIND}, found {said}")
    lines = [line.split() for line in body.splitlines() if line.strip()]
    vectors = np.zeros((len(lines), features))
    for row, (_, *entries) in enumerate(lines):
        for entry in entries:
            place, _, value = entry.partition(":")
            if not 1 <= int(place) <= features:
                raise UserError(f"{file}: expected features 1 to {features}, found {place}")
            vectors[row, int(place) - 1] = float(value)
    if len(lines) != int(said["total_sv"]):
        raise UserError(f"{file}: expected {said['total_sv']} support vectors, found {len(lines)}: it is cut off")
    return Regression(vectors, np.array([float(line[0]) for line in lines]), float(said["gamma"]), float(said["rho"]))
