"""score: rewards' scores of the images in a folder or in Parquet files, a line each, and their means."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffalign.commands import judges
from diffalign.core import files
from diffalign.core.errors import UserError
from diffalign.core.progress import Progress
from diffalign.data import captioned
from diffalign.data.captioned import Captioned, Found, Rejected
from diffalign.evaluation import bootstrap, scoring, statistics
from diffalign.evaluation.scores import Floats, as_column, as_values
from diffalign.judging.judge import Judge

if TYPE_CHECKING:
    from diffalign.config.params import Params

OUT = files.RUNS / "score"
CHUNK = 64
"""Images that are held and scored at a time."""
Line = dict[str, Any]


def run(params: "Params", path: Path, names: Sequence[str], table: Path | None, out: Path | None) -> str:
    """Scores the images at a path, writes a JSON line for each, and returns the summary as text.

    `names` are rewards, by default those of params.yaml; `table` has the captions where they aren't beside the images;
    `out` is by default `runs/score/NAME.jsonl`. Raises UserError where no image can be scored.
    """
    out = out or OUT / f"{path.resolve().name.removesuffix('.parquet')}.jsonl"
    count, found = captioned.read(path, table, params.data.max_image_pixels)
    loaded = judges.load(params, names)
    lines, rejects = scored(found, loaded, Progress("score", count))
    say(rejects)
    if not lines:
        raise UserError(f"{path}: expected images with captions, found none that can be used.")
    files.write_json_lines(out, lines)
    settings = params.evaluate
    how = {"resamples": settings.bootstrap, "confidence": settings.confidence, "seed": settings.seed}
    return f"{table_of(lines, loaded, how)}\n{len(lines)} images: {out}"


def scored(found: Iterator[Found], loaded: Sequence[Judge], progress: Progress) -> tuple[list[Line], list[Rejected]]:
    """Returns a line for each image that could be read, in order: file, prompt, scores; and what was rejected."""
    lines: list[Line] = []
    rejects: list[Rejected] = []
    for some in batched(found, CHUNK):
        rejects += [one for one in some if isinstance(one, Rejected)]
        lines += of_chunk([one for one in some if isinstance(one, Captioned)], loaded)
        progress.update(len(some))
    return lines, rejects


def batched(items: Iterator[Found], size: int) -> Iterator[list[Found]]:
    """Yields lists of up to `size` items."""
    while some := list(islice(items, size)):
        yield some


def of_chunk(chunk: Sequence[Captioned], loaded: Sequence[Judge]) -> list[Line]:
    """Returns the lines of some images; those of one size are scored together."""
    values: list[dict[str, float | None]] = [{} for _ in chunk]
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, one in enumerate(chunk):
        sizes.setdefault(one.pixels.shape, []).append(i)
    for at in sizes.values():
        keys = [(chunk[i].sha256, chunk[i].prompt) for i in at]
        for judge in loaded:
            known = judge.cache.get(keys)
            if known is None:
                known = scoring.scored([chunk[i].pixels for i in at], keys, judge.score, judge.cache)
            for name, column in known.items():
                for i, value in zip(at, as_values(column), strict=True):
                    values[i][name] = value
    return [{"file": one.file, "prompt": one.prompt, "scores": own} for one, own in zip(chunk, values, strict=True)]


def say(rejects: Sequence[Rejected]) -> None:
    """Says on stderr how many images were left out, by reason, with an example each."""
    for reason, count in Counter(one.reason for one in rejects).items():
        example = next(one for one in rejects if one.reason == reason)
        sys.stderr.write(
            f"left out: {count} {'image' if count == 1 else 'images'}, {captioned.REASONS[reason]} "
            f"({example.file!r}: {example.detail})\n"
        )


def table_of(lines: Sequence[Line], loaded: Sequence[Judge], how: Mapping[str, Any]) -> str:
    """Returns a table of each score's mean with its interval over prompts, and how many images have none."""
    rows = [("score", "mean", f"{how['confidence']:.0%} interval", "missing")]
    for name in lines[0]["scores"]:
        values = as_column(line["scores"][name] for line in lines)
        known = ~np.isnan(values)
        missing = f"{int((~known).sum())} of {len(values)}"
        if not known.any():
            rows.append((name, "-", "-", missing))
            continue
        prompts = [line["prompt"] for line, k in zip(lines, known, strict=True) if k]
        low, high = mean_interval(values[known], prompts, how)
        rows.append((name, f"{values[known].mean():.4g}", f"{low:.4g} to {high:.4g}", missing))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    text = "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
    versions = "\n".join(f"{judge.name}: version {judge.reward.version}" for judge in loaded)
    return f"{text}\n{versions}"


def mean_interval(values: Floats, prompts: Sequence[str], how: Mapping[str, Any]) -> tuple[float, float]:
    """Returns the interval of a mean [N] under resampling of whole prompts; both NaN with one prompt."""
    if len(set(prompts)) < 2:
        return float("nan"), float("nan")
    table = bootstrap.sums([values, np.ones(len(values))], prompts)
    return bootstrap.percentile(table, statistics.mean, **how)
