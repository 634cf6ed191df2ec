"""The probes of a training as they stand in its curve."""

from collections.abc import Iterator, Sequence

Point = dict[str, float]
"""What was seen at a step, by name; a figure that can't be had isn't there. In a history it has its `step`, too."""
PREFIX = "probe/"
"""What a point's names begin with among the others of the training curve."""
BINS = 5
"""Equal parts of a policy's range of timesteps, figures t1/... to t5/...; the first has the least noise."""


def points(lines: Sequence[dict[str, float]]) -> list[Point]:
    """The probes among the lines of a training curve, without the prefix, each with its `step`."""
    found = ({name.removeprefix(PREFIX): v for name, v in line.items() if name.startswith(PREFIX)} for line in lines)
    return [{"step": line["step"], **point} for line, point in zip(lines, found, strict=True) if point]


def named(point: Point) -> Iterator[tuple[str, float]]:
    """A point's figures as they stand in the curve."""
    return ((PREFIX + name, value) for name, value in point.items() if name != "step")
