"""HPDv2 (Wu et al. 2023, arXiv 2306.09341): train.json of choices, test.json of rankings, images in train/ and test/.

A row of train.json has `prompt`, `file_path` (images) and `human_preference` (1: preferred, else 0); of test.json
`prompt`, `image_path`, `rank` (the mean ranking, 1 is best) and `raw_annotations`, a `user_hash` and its `rank` each.
Rankings become one comparison for any two images, with equal ranks a tie; those of one ranking share its name.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from diffalign.core.errors import UserError
from diffalign.core.files import sha256_bytes
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import json_rows, rows, source, streamed
from diffalign.data.sources.files import File
from diffalign.data.sources.image_files import ImageFiles, check_unpacked
from diffalign.data.sources.rows import Bad, Side
from diffalign.data.sources.source import Candidate

REASONS = {
    "bad_ranking": "as many ranks as images are expected, all numbers",
    "ranks_disagree": "the raters' rankings are opposed to the mean ranking: they may be orders, not ranks",
}


def load(path: Path, settings: Mapping[str, Any]) -> source.Source:
    """Opens a folder with train.json, test.json or both; raises UserError for other settings and files."""
    given = source.check_settings(streamed.SplitSettings, settings)
    check_unpacked(path, "*.tar.gz", "for archive in *.tar.gz; do tar -xzf $archive; done")
    return streamed.Streamed(path, given.splits, Reader(path))


class Choice(NamedTuple):
    """Two images of a row by their places, the share of side `first`, who answered, and the ranking's name."""

    first: int
    second: int
    share: float
    rater: str | None = None
    ranking: str | None = None


class Reader:
    """Reads train.json and test.json."""

    suffix, deep = ".json", False
    expected = "HPDv2's train.json (prompt, file_path, human_preference) and test.json (prompt, image_path, rank)"
    reasons: Mapping[str, str] = REASONS

    def __init__(self, path: Path) -> None:
        root = path.parent if path.is_file() else path
        self.images = {
            kind: ImageFiles(root, (*(name for name in ("train", "test") if name in kind), "", "images"))
            for kind in ("train", "test", "train test")
        }

    def count(self, path: Path) -> int:
        """Returns the number of comparisons, and of what isn't one."""
        count = known = 0
        for raw in json_rows.read(path):
            count += len(_choices(raw))
            known += isinstance(raw, dict) and ("human_preference" in raw or "rank" in raw)
        if count and not known:
            raise UserError("no row has human_preference or rank")
        return count

    def prompts(self, path: Path) -> Iterator[Any]:
        """Yields the prompts."""
        return json_rows.values(path, "prompt")

    def entries(self, file: File) -> Iterator[Candidate | Reject]:
        """Yields the comparisons of each row."""
        images = self.images[file.split if file.split in ("train", "test") else "train test"]
        for row, raw in enumerate(json_rows.read(file.path)):
            for choice in _choices(raw):
                yield streamed.made(_made, file, row, raw, choice, images)


def _made(file: File, row: int, raw: Any, choice: Choice | Bad, images: ImageFiles) -> Candidate:
    if isinstance(choice, Bad):
        raise choice
    prompt = rows.prompt_of(raw.get("prompt"))
    paths = raw["file_path"] if "human_preference" in raw else raw["image_path"]
    sides = Side(images.read(paths[choice.first])), Side(images.read(paths[choice.second]))
    return rows.comparison(
        file,
        row,
        "hpdv2",
        prompt,
        sides,
        share=choice.share,
        rater_id=choice.rater,
        ranking=choice.ranking,
    )


def _choices(raw: Any) -> list[Choice | Bad]:
    """Returns the comparisons of a row, in order; the errors where there are others. Never empty."""
    try:
        row = rows.mapping(raw)
        if "human_preference" in row:
            return list(_preferred(row))
        if "rank" in row:
            return _rankings(row)
        raise Bad("not_a_row", "neither human_preference nor rank is there")
    except Bad as bad:
        return [bad]


def _preferred(row: Mapping[str, Any]) -> Iterator[Choice]:
    """Yields each preferred image against each other one."""
    paths, given = row.get("file_path"), rows.numbers(row["human_preference"])
    if not isinstance(paths, list) or given is None or len(given) != len(paths):
        raise Bad("bad_answer", f"expected as many preferences as images, found {row['human_preference']!r:.80}")
    if set(given) != {0.0, 1.0}:
        raise Bad("bad_answer", f"expected 0 and 1, both there; found {row['human_preference']!r:.80}")
    name = _name(row) if len(paths) > 2 else None
    for first, second in combinations(range(len(paths)), 2):
        if given[first] != given[second]:
            yield Choice(first, second, given[first], ranking=name)


def _rankings(row: Mapping[str, Any]) -> list[Choice | Bad]:
    """Returns the comparisons of each rater's ranking; of the mean one where no rater's is there."""
    paths, mean = row.get("image_path"), rows.numbers(row["rank"])
    if not isinstance(paths, list) or mean is None or len(mean) != len(paths) or len(paths) < 2:
        raise Bad("bad_ranking", f"image_path and rank: found {row['rank']!r:.80}")
    given = row.get("raw_annotations")
    if not given:
        return list(_ranked(mean, None, _name(row)))
    if not isinstance(given, list):
        raise Bad("bad_ranking", f"raw_annotations: expected a list, found {type(given).__name__}")
    found: list[Choice | Bad] = []
    ranks = []
    for place, one in enumerate(given):
        rank = rows.numbers(one.get("rank")) if isinstance(one, dict) else None
        if rank is None or len(rank) != len(paths):
            found.append(Bad("bad_ranking", f"annotation {place}: {one!r:.80}"))
            continue
        ranks.append(rank)
        rater = rows.text(one.get("user_hash"))
        found += _ranked(rank, rater, f"{_name(row)}-{place}")
    if ranks and _opposed(mean, [sum(column) for column in zip(*ranks, strict=True)]):
        raise Bad("ranks_disagree", f"rank is {mean}, raters' first {ranks[0]}")
    return found


def _ranked(rank: list[float], rater: str | None, name: str) -> Iterator[Choice]:
    """Yields any two places of a ranking; a lower rank is better."""
    for first, second in combinations(range(len(rank)), 2):
        share = 0.5 + (rank[first] < rank[second]) / 2 - (rank[first] > rank[second]) / 2
        yield Choice(first, second, share, rater, name)


def _opposed(one: list[float], other: list[float]) -> bool:
    """Tells whether two rankings order more pairs of places differently than alike."""
    signs = [(one[i] - one[j]) * (other[i] - other[j]) for i, j in combinations(range(len(one)), 2)]
    return sum(sign < 0 for sign in signs) > sum(sign > 0 for sign in signs)


def _name(row: Mapping[str, Any]) -> str:
    """Returns the name of a row's ranking, made of its content."""
    said = repr((row.get("prompt"), row.get("image_path", row.get("file_path"))))
    return f"hpdv2-{sha256_bytes(rows.clean(said).encode())[:12]}"
