"""Computes a data card from a folder of comparisons: counts, spreads, position bias, agreement of raters.

Legend: U two images of a prompt that were compared, on one axis.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from diffalign.core.files import sha256_bytes
from diffalign.data import odd
from diffalign.data.batches.votes import SHARES
from diffalign.data.comparisons.table import ANSWERS, IMAGES, SPLITS
from diffalign.evaluation import agreement
from diffalign.evaluation.data_card import (
    Agreement,
    DataCard,
    Example,
    Images,
    Named,
    Position,
    Prompts,
    Rankings,
    Raters,
    SplitSize,
    Spread,
    Votes,
)
from diffalign.evaluation.intervals import Interval

HOW = Interval(resamples=2000, confidence=0.95, seed=0)
SHOWN, EXAMPLES = 10, 8
"""Names of a kind, and pairs, that a card has at most."""


def card(table: pa.Table, folder: Path, counted: Mapping[str, Any]) -> DataCard:
    """Returns the card of a folder's comparisons; `counted` is what metrics/ingest.json says of them.

    Reads of the images their sizes only.
    """
    sides, answers = position(table), table["answer"].value_counts().to_pylist()
    who = raters(table)
    by_answer = {one["values"]: one["counts"] for one in answers}
    prompts = counted["split_prompts"]
    return DataCard(
        schema=1,
        rows=counted["rows"],
        comparisons=len(table),
        rejects=counted["rejects"],
        answers={answer: by_answer.get(answer, 0) for answer in ANSWERS},
        splits={name: SplitSize(comparisons=counted["splits"][name], prompts=prompts[name]) for name in SPLITS},
        sources=named(table["source"]),
        axes=named(table["axis"]),
        rater_groups=named(table["rater_group"]),
        raters=who,
        models=models(table),
        votes=votes(table),
        rankings=rankings(table),
        position=sides,
        agreement=agreed(table),
        images=images(folder),
        prompts=prompt_lengths(table),
        odd=odd.of_data(
            test_prompts=prompts["test"],
            validation_prompts=prompts["validation"],
            comparisons=len(table),
            ties=by_answer.get("tie", 0),
            raters=who.named,
            unnamed=who.unnamed,
            sides=[sides.first, sides.second],
        ),
        examples=examples(table),
    )


def spread(values: ArrayLike) -> Spread | None:
    """Returns the spread of some numbers; None without any."""
    found = np.asarray(values, np.float64)
    if not found.size:
        return None
    least, median, p95, most = np.quantile(found, [0, 0.5, 0.95, 1], method="inverted_cdf").tolist()
    return Spread(least=least, median=median, p95=p95, most=most)


def named(column: pa.ChunkedArray) -> list[Named]:
    """Returns the names in a column, the most frequent first, at most `SHOWN`."""
    found = column.drop_null().value_counts().to_pylist()
    found.sort(key=lambda one: (-one["counts"], one["values"]))
    return [Named(name=o["values"], comparisons=o["counts"], share=o["counts"] / len(column)) for o in found[:SHOWN]]


def raters(table: pa.Table) -> Raters:
    """Returns who answered."""
    known = table["rater_id"].drop_null()
    counts = known.value_counts().field("counts").to_numpy(zero_copy_only=False)
    return Raters(
        named=len(counts), unnamed=len(table) - len(known), comparisons=spread(counts), most=named(table["rater_id"])
    )


def models(table: pa.Table) -> list[Named]:
    """Returns the models that made images: the sides that were theirs, and the share of their untied ones that won."""
    shown: Counter[str] = Counter()
    won: Counter[str] = Counter()
    untied: Counter[str] = Counter()
    counts = table.group_by(["model_a", "model_b", "answer"]).aggregate([([], "count_all")]).to_pylist()
    for row in counts:
        for side in "ab":
            if (model := row[f"model_{side}"]) is not None:
                shown[model] += row["count_all"]
                untied[model] += row["count_all"] * (row["answer"] in ("a", "b"))
                won[model] += row["count_all"] * (row["answer"] == side)
    first = sorted(shown, key=lambda name: (-shown[name], name))[:SHOWN]
    return [Named(name=name, comparisons=shown[name], share=won[name] / max(untied[name], 1)) for name in first]


def votes(table: pa.Table) -> Votes:
    """Returns the comparisons that are shares, and of how many votes."""
    given = table["votes"].drop_null().to_numpy()
    return Votes(comparisons=len(table) - table["share"].null_count, votes=spread(given))


def rankings(table: pa.Table) -> Rankings:
    """Returns the rankings, and the comparisons that were made of them."""
    known = table.filter(pc.is_valid(table["ranking"])).group_by(["source", "axis", "ranking"]).aggregate([])
    return Rankings(rankings=len(known), comparisons=len(table) - table["ranking"].null_count)


def position(table: pa.Table) -> Position:
    """Returns how often the first image won the untied comparisons."""
    untied = table.filter(pc.is_in(table["answer"], pa.array(["a", "b"])))
    won = pc.equal(untied["answer"], "a").to_numpy().astype(np.float64)
    found = HOW.rate(won, untied["prompt"].to_pylist())
    return Position(
        first=int(won.sum()),
        second=int(len(won) - won.sum()),
        rate=found.rate,
        ci_low=found.low,
        ci_high=found.high,
    )


def agreed(table: pa.Table) -> Agreement:
    """Returns how far answers, and the votes of shares, agree about the same two images of a prompt."""
    counts = answers_of_pairs(table)
    counts = counts[counts.sum(axis=1) > 1]
    n = counts.sum(axis=1)
    scaled = counts / np.maximum(n - 1, 1)[:, None]
    # Each pair's coincidences, summed: (outer(c, c) - diag(c)) / (n - 1).
    whole = scaled.T @ counts - np.diag(scaled.sum(axis=0))
    alpha = float(agreement.alpha(whole))
    return Agreement(
        pairs=len(counts),
        agree=float(np.trace(whole) / whole.sum()) if len(counts) else None,
        alpha=None if np.isnan(alpha) else alpha,
    )


def answers_of_pairs(table: pa.Table) -> NDArray[np.float64]:
    """Returns the answers [U, 4] about each two images: for the first by SHA-256, the second, ties, both bad.

    The votes of a share count each, as far as it says how many.
    """
    rows: dict[tuple[Any, ...], list[float]] = {}
    for axis, prompt, a, b, answer, share, number in lines(table):
        counts = rows.setdefault((axis, prompt, *sorted((a, b))), [0.0] * 4)
        if share is not None:
            for_a = round(share * (number or 0))
            counts[a > b] += for_a
            counts[a < b] += (number or 0) - for_a
        elif answer == "both_bad":
            counts[3] += 1
        elif answer in SHARES:
            counts[2 if answer == "tie" else (answer == "b") != (a > b)] += 1
    return np.array(list(rows.values()), np.float64).reshape(-1, 4)


def lines(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Yields (axis, prompt, image_a, image_b, answer, share, votes) of each comparison."""
    names = ("axis", "prompt", "image_a", "image_b", "answer", "share", "votes")
    for batch in table.select(names).to_batches(8192):
        yield from zip(*(batch[name].to_pylist() for name in names), strict=True)


def images(folder: Path) -> Images:
    """Returns the sizes and formats of the images in a folder of comparisons."""
    parts = [pq.read_table(path, columns=["width", "height", "format"]) for path in sorted(folder.glob(IMAGES))]
    found = pa.concat_tables(parts)
    width, height = (found[name].to_numpy() for name in ("width", "height"))
    formats = Counter(found["format"].to_pylist())
    wide, high = spread(width), spread(height)
    assert wide is not None and high is not None
    return Images(
        images=len(found),
        formats=dict(formats.most_common()),
        width=wide,
        height=high,
        sizes=len(set(zip(width.tolist(), height.tolist(), strict=True))),
    )


def prompt_lengths(table: pa.Table) -> Prompts:
    """Returns the lengths of the distinct prompts."""
    texts: Sequence[str] = table["prompt"].unique().to_pylist()
    characters, words = spread([len(text) for text in texts]), spread([len(text.split()) for text in texts])
    assert characters is not None and words is not None
    return Prompts(prompts=len(texts), characters=characters, words=words)


def examples(table: pa.Table) -> list[Example]:
    """Returns a few comparisons of the train split, the first by the hash of their ids."""
    train = table.filter(pc.equal(table["split"], "train"))
    ids = train["comparison_id"].to_pylist()
    first = sorted(range(len(ids)), key=lambda i: sha256_bytes(ids[i].encode()))[:EXAMPLES]
    names = list(Example.model_fields)
    return [Example(**row) for row in train.select(names).take(first).to_pylist()]
