"""Strengths of policies from votes: Bradley and Terry's model with ties and a term for the side.

Davidson (1970, eq. 2.4) for ties, Davidson & Beaver (1977) for the order of presentation, in logarithms: where i is on
the left and j on the right,

    left : right : tie  =  exp(s_i + p / 2) : exp(s_j - p / 2) : exp(t + (s_i + s_j) / 2)

Legend: N votes, P policies, D parameters, K clusters (distinct prompts).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffalign.evaluation import bootstrap
from diffalign.evaluation.bootstrap import Estimate, Floats

LARGEST = 12.0
"""A log-odds beyond this isn't finite: somebody won every vote, or nobody ever chose one side."""
SMALLEST = 1e-9
"""The least curvature of the mean log-likelihood, below which the votes don't tell the policies apart."""


@dataclass(frozen=True)
class Strengths:
    """The model's parameters: `policies` [P] in log-odds against the first (0), `position` of the left, `tie`."""

    policies: list[Estimate]
    position: Estimate
    tie: Estimate | None
    """None where no vote is a tie."""


def fit(
    left: Sequence[int], right: Sequence[int], results: Floats, clusters: Sequence[Hashable], confidence: float
) -> Strengths | None:
    """Fits the model by maximum likelihood; None where the votes leave a parameter without a finite estimate.

    `left` and `right` [N] are policies by number, 0..P-1, all of which occur; `results` [N] are 1 where the left one
    was chosen, 0 the right one, 0.5 a tie. Intervals are normal ones from the sandwich estimate of the covariance with
    votes of a prompt as a cluster (White 1982; K / (K - 1) as in Stata's manual).
    """
    from scipy.optimize import minimize
    from scipy.special import ndtri

    ties = bool((results == 0.5).any())
    X = design(np.asarray(left), np.asarray(right), ties)
    chosen = np.select([results == 1, results == 0], [0, 1], 2)
    D = X.shape[2]
    if not len(chosen) or len(set(clusters)) < 2:
        return None
    found = minimize(lambda p: loss(p, X, chosen), np.zeros(D), jac=True, method="BFGS", options={"gtol": 1e-7})
    information = hessian(found.x, X)
    if np.abs(found.x).max() > LARGEST or np.linalg.eigvalsh(information)[0] < SMALLEST * len(chosen):
        return None
    bread = np.linalg.inv(information)
    sums = bootstrap.sums(list(scores(found.x, X, chosen).T), clusters)
    covariance = bread @ (sums.T @ sums) @ bread * len(sums) / (len(sums) - 1)
    half = float(ndtri(0.5 + confidence / 2)) * np.sqrt(np.diag(covariance))
    estimates = [Estimate(float(v), float(v - h), float(v + h)) for v, h in zip(found.x, half, strict=True)]
    P = D - 1 - ties
    return Strengths([Estimate(0.0, 0.0, 0.0), *estimates[:P]], estimates[P], estimates[P + 1] if ties else None)


def design(left: NDArray[np.int_], right: NDArray[np.int_], ties: bool) -> Floats:
    """Returns [N, 2 or 3, D]: how the log-weights of left, right and tie depend on the parameters.

    These are the strengths of policies 1..P-1, the position, and, with ties, the tie's.
    """
    N, P = len(left), int(max(left.max(initial=0), right.max(initial=0))) + 1
    strength = np.zeros((N, 2, P))
    strength[np.arange(N), 0, left] = 1
    strength[np.arange(N), 1, right] = 1
    X = np.zeros((N, 2 + ties, P + ties))
    X[:, :2, : P - 1] = strength[:, :, 1:]
    X[:, 0, P - 1], X[:, 1, P - 1] = 0.5, -0.5
    if ties:
        X[:, 2, : P - 1] = strength[:, :, 1:].mean(axis=1)
        X[:, 2, P] = 1
    return X


def probabilities(parameters: Floats, X: Floats) -> Floats:
    """Returns the probabilities [N, 2 or 3] of left, right and tie."""
    logits = X @ parameters
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def scores(parameters: Floats, X: Floats, chosen: NDArray[np.int_]) -> Floats:
    """Returns the gradient [N, D] of each vote's log-likelihood."""
    expected = np.einsum("nk,nkd->nd", probabilities(parameters, X), X)
    return X[np.arange(len(chosen)), chosen] - expected


def loss(parameters: Floats, X: Floats, chosen: NDArray[np.int_]) -> tuple[float, Floats]:
    """Returns the mean negative log-likelihood, and its gradient [D]."""
    found = probabilities(parameters, X)[np.arange(len(chosen)), chosen]
    return -float(np.log(np.maximum(found, np.finfo(float).tiny)).mean()), -scores(parameters, X, chosen).mean(axis=0)


def hessian(parameters: Floats, X: Floats) -> Floats:
    """Returns the information [D, D]: the second derivative of the negative log-likelihood, summed over votes."""
    weights = probabilities(parameters, X)
    expected = np.einsum("nk,nkd->nd", weights, X)
    second: Floats = np.einsum("nk,nkd,nke->de", weights, X, X) - expected.T @ expected
    return second
