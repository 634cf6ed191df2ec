"""What a study is made of: runs, and groups of them with claims."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from studies.claims import Claim

Asked = Literal["all", "oracle", "weaker", "own", "stronger"]
"""Which comparisons a run trains on: all, all with the oracle's answers, or those of one model's images."""


@dataclass(frozen=True)
class Run:
    """A policy of params.yaml, `of`, with some of its values changed; base: the model before alignment, sampled so."""

    label: str
    of: Literal["dpo", "sft", "base"]
    changes: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    """Keys that the changed policy's method doesn't have."""
    asked: Asked = "all"
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """How its images are made otherwise than the others', as in `generate.overrides`."""
    probe: Mapping[str, Any] = field(default_factory=dict)
    """How it's looked at while it trains otherwise than the others, as in the section `probe`."""
    round: Mapping[str, Any] | None = None
    """The round that it starts from, as in the section `rounds`; its policy is another run, or the base."""


def named(name: str, seed: int) -> str:
    """Returns the name of a run with a seed of training: 0 is the run's own."""
    return f"{name}_seed_{seed}" if seed else name


@dataclass(frozen=True)
class Group:
    """Runs that are shown together, and the claims that they test."""

    name: str
    title: str
    runs: tuple[str, ...]
    claims: tuple[Claim, ...]
    extra: bool = False
    """Whether it's made only where it's asked for by name."""
