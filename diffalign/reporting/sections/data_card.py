"""The report's section on the comparisons: who answered what, how far it can be trusted, and some pairs as pictures."""

from collections.abc import Iterator, Mapping
from typing import Any

from diffalign.config.training import Trained
from diffalign.data import odd
from diffalign.data.comparisons.table import SPLITS
from diffalign.evaluation.data_card import DataCard, Example, Named, Spread
from diffalign.reporting import thumbnails
from diffalign.reporting.format import interval, percent
from diffalign.reporting.material import Material
from diffalign.reporting.sections.before_after import cut

BYTES = 1_000_000
"""Of all pictures of pairs together, as data URIs."""
Row = tuple[str, str]


def context(report: Material) -> dict[str, Any] | None:
    """Returns what is odd, the tables, and the pairs shown; None without a data card."""
    if report.card is None:
        return None
    found = {title: rows for title, rows in tables(report.card, report.cut_prompts) if rows}
    limit = thumbnails.share(BYTES, 2 * len(report.card.examples))
    return {
        "odd": [*report.card.odd, *of_trainings(report)],
        "tables": [{"title": title, "rows": rows} for title, rows in found.items()],
        "pairs": [pair(one, report, limit) for one in report.card.examples],
    }


def of_trainings(report: Material) -> Iterator[str]:
    """Yields what is odd in each policy's training on so many pairs."""
    for name, work in report.work.items():
        policy = report.settings.policies[name]
        if work.pairs and isinstance(policy, Trained):
            yield from (f"{name}: {line}" for line in odd.of_training(work.pairs, policy.batch_size, policy.steps))


def tables(card: DataCard, cut_prompts: Mapping[str, int] | None) -> Iterator[tuple[str, list[Row]]]:
    """Yields each table's title and its rows, which may be none."""
    rejected = counts({f"rejected: {code.replace('_', ' ')}": count for code, count in card.rejects.items()})
    yield "Rows", [("rows read", f"{card.rows:,}"), ("comparisons", f"{card.comparisons:,}"), *rejected]
    yield "Answers", [*counts({words(name): count for name, count in card.answers.items()}), *of_votes(card)]
    yield (
        "Splits",
        [
            (n, f"{(one := card.splits[n]).comparisons:,} on {one.prompts:,} prompts")
            for n in SPLITS
            if n in card.splits
        ],
    )
    yield "Position and agreement", trust(card)
    yield "Raters", [*of_raters(card), *of_names(card.raters.most)]
    yield "Sources", of_names(card.sources)
    yield "Axes", of_names(card.axes)
    yield "Groups of raters", of_names(card.rater_groups)
    sides = [(one.name, f"{one.comparisons:,}, won {percent(one.share)}") for one in card.models]
    yield "Models: images shown, and untied ones that won", sides
    cut_rows = [(f"longer than {name} reads, cut", f"{count:,}") for name, count in (cut_prompts or {}).items()]
    lengths = [("characters", of_spread(card.prompts.characters)), ("words", of_spread(card.prompts.words))]
    yield "Prompts", [("distinct", f"{card.prompts.prompts:,}"), *lengths, *cut_rows]
    sizes = [("width", of_spread(card.images.width)), ("height", of_spread(card.images.height))]
    stored = [("distinct", f"{card.images.images:,}"), ("sizes", f"{card.images.sizes:,}")]
    yield "Images", [*stored, *sizes, *counts(card.images.formats)]


def counts(found: Mapping[str, int]) -> list[Row]:
    """Returns counts by name."""
    return [(name, f"{count:,}") for name, count in found.items()]


def words(answer: str) -> str:
    """Returns an answer in words."""
    return {"a": "first image", "b": "second image", "both_bad": "both bad", "none": "no answer"}.get(answer, answer)


def of_votes(card: DataCard) -> list[Row]:
    """Returns how many comparisons are shares of votes, and how many are of rankings."""
    shares, ranked = card.votes, card.rankings
    rows = [("shares of votes", f"{shares.comparisons:,}")] if shares.comparisons else []
    rows += [("votes each", of_spread(shares.votes))] if shares.votes else []
    return rows + ([("of rankings", f"{ranked.comparisons:,} of {ranked.rankings:,}")] if ranked.rankings else [])


def trust(card: DataCard) -> list[Row]:
    """Returns how often the first side won, and how far answers agree."""
    side, agreed = card.position, card.agreement
    told = f"{percent(side.rate)} ({interval(side.model_dump())})" if side.rate is not None else "–"
    rows = [("first image won, of untied", told), ("pairs with several answers", f"{agreed.pairs:,}")]
    if agreed.agree is None:
        return rows
    alpha = "–" if agreed.alpha is None else f"{agreed.alpha:.2f}"
    return [*rows, ("two answers agree", percent(agreed.agree)), ("Krippendorff's alpha", alpha)]


def of_raters(card: DataCard) -> list[Row]:
    """Returns how many raters are named, and how much each answered."""
    found = card.raters
    rows = [("named", f"{found.named:,}"), ("answers without a name", f"{found.unnamed:,}")]
    return rows + ([("answers each", of_spread(found.comparisons))] if found.comparisons else [])


def of_names(found: list[Named]) -> list[Row]:
    """Returns how many comparisons are each one's."""
    return [(one.name, f"{one.comparisons:,} ({percent(one.share)})") for one in found]


def of_spread(found: Spread) -> str:
    """Returns numbers as `median (least to most)`; one number where they are all the same."""
    if found.least == found.most:
        return f"{found.median:,g}"
    return f"{found.median:,g} ({found.least:,g} to {found.most:,g}, 95% up to {found.p95:,g})"


def pair(one: Example, report: Material, limit: int) -> dict[str, Any]:
    """Returns a comparison as two pictures, with what raters said of each."""
    first = {"a": 1.0, "b": 0.0, "tie": 0.5}.get(one.answer) if one.share is None else one.share
    second = None if first is None else 1 - first
    shots = []
    for side, image, share in (("first", one.image_a, first), ("second", one.image_b, second)):
        won = "" if share is None else "tie" if share == 0.5 else "preferred" if share > 0.5 else ""
        votes = f"{percent(share)} of {one.votes:,} votes" if one.votes and share is not None else ""
        uri = thumbnails.data_uri(report.pictures[image], limit)
        alt = f"{side} image for: {cut(one.prompt)}{', ' + won if won else ''}"
        shots.append({"uri": uri, "alt": alt, "told": " ".join(filter(None, (won, votes))) or "–"})
    return {"caption": cut(one.prompt), "shots": shots}
