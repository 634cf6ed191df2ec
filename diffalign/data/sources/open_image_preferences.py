"""open-image-preferences-v1 (data-is-better-together, 2024): its binarized pairs, or its raw answers with the images.

The binarized set has `prompt`, `chosen` and `rejected` (images), `chosen_model` and `rejected_model`: sides are
shuffled by the images' hash. The set of results has `images` (the addresses of image_1 and image_2, and the prompt),
`model_1`, `model_2` and lists of answers, raters and whether each was submitted: every answer is a comparison. Its
images are files of the set open-image-preferences-v1, which are read at `image_*/*.jpg` below data.path.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from diffalign.data.comparisons.table import Answer
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import parquet, rows, source, streamed
from diffalign.data.sources.files import File
from diffalign.data.sources.image_files import ImageFiles
from diffalign.data.sources.rows import Bad, Side
from diffalign.data.sources.source import Candidate

_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
PAIRS = {"prompt": _TEXT, "chosen": pa.binary(), "rejected": pa.binary()}
MORE_PAIRS = {"chosen_model": _TEXT, "rejected_model": _TEXT}
ANSWERED = "preference.responses"
RATERS, STATES = f"{ANSWERED}.users", f"{ANSWERED}.status"
SHOWN = ("image_1", "image_2", "prompt")
RESULTS = {"images": pa.struct([(name, _TEXT) for name in SHOWN]), ANSWERED: _TEXTS}
MORE_RESULTS = {"model_1": _TEXT, "model_2": _TEXT, RATERS: _TEXTS, STATES: _TEXTS}
ANSWERS: Mapping[str, Answer] = {"image_1": "a", "image_2": "b", "both_good": "tie", "both_bad": "both_bad"}
SUBMITTED = "submitted"
REASONS = {
    "no_label": "nobody answered",
    "not_submitted": "an answer that the rater didn't submit",
}
UNPACK_BYTES = 512 * 2**20


def load(path: Path, settings: Mapping[str, Any]) -> source.Source:
    """Opens a folder of Parquet files of either kind; raises UserError for other settings, columns and names."""
    given = source.check_settings(streamed.SplitSettings, settings)
    return streamed.Streamed(path, given.splits, Reader(path))


class Reader:
    """Reads the binarized set's files and the results'."""

    suffix, deep = ".parquet", True
    expected = f"the columns {', '.join(PAIRS)}, or {', '.join(RESULTS)}"
    reasons: Mapping[str, str] = REASONS

    def __init__(self, path: Path) -> None:
        self.images = ImageFiles(path.parent if path.is_file() else path)

    def count(self, path: Path) -> int:
        """Returns the number of pairs; of results that of answers, and of rows without one."""
        if not _has_answers(path):
            return parquet.check(path, PAIRS, MORE_PAIRS, parquet.alike)
        parquet.check(path, RESULTS, MORE_RESULTS, _fits)
        found = parquet.records(path, [ANSWERED], UNPACK_BYTES)
        return sum(max(len(raw[ANSWERED] or ()), 1) for raws, _ in found for raw in raws)

    def prompts(self, path: Path) -> Iterator[Any]:
        """Yields the prompts."""
        column = "images" if _has_answers(path) else "prompt"
        for raws, _ in parquet.records(path, [column], UNPACK_BYTES):
            for raw in raws:
                yield raw[column] if column == "prompt" else (raw[column] or {}).get("prompt")

    def entries(self, file: File) -> Iterator[Candidate | Reject]:
        """Yields a comparison for each pair or answer."""
        answers = _has_answers(file.path)
        wanted = [*RESULTS, *MORE_RESULTS] if answers else [*PAIRS, *MORE_PAIRS]
        row = 0
        for raws, _ in parquet.records(file.path, wanted, UNPACK_BYTES):
            for raw in raws:
                if answers:
                    yield from self._answers(file, row, raw)
                else:
                    yield streamed.made(_pair, file, row, raw)
                row += 1

    def _answers(self, file: File, row: int, raw: dict[str, Any]) -> Iterator[Candidate | Reject]:
        given = raw[ANSWERED] or []
        if not given:
            yield Reject(file.name, row, "no_label", f"{ANSWERED} is empty")
        for place in range(len(given)):
            yield streamed.made(self._answer, file, row, raw, place)

    def _answer(self, file: File, row: int, raw: dict[str, Any], place: int) -> Candidate:
        shown = rows.mapping(raw["images"])
        prompt = rows.prompt_of(shown["prompt"])
        said = rows.text(raw[ANSWERED][place])
        if said is None or said not in ANSWERS:
            raise Bad("bad_answer", f"expected one of {', '.join(ANSWERS)}, found {said!r:.40}")
        state = _at(raw[STATES], place)
        if state not in (None, SUBMITTED):
            raise Bad("not_submitted", f"its status is {state}")
        sides = [Side(self._image(shown[f"image_{i}"]), rows.text(raw[f"model_{i}"])) for i in (1, 2)]
        rater = _at(raw[RATERS], place)
        return rows.comparison(
            file,
            row,
            "open_image_preferences",
            prompt,
            (sides[0], sides[1]),
            ANSWERS[said],
            rater_id=rater,
        )

    def _image(self, address: Any) -> bytes:
        """Returns the image at an address on the hub, read below data.path: what follows /resolve/BRANCH/."""
        said = rows.text(address)
        if said is not None and "://" in said:
            said = said.partition("/resolve/")[2].partition("/")[2]
        return self.images.read(said)


def _pair(file: File, row: int, raw: dict[str, Any]) -> Candidate:
    sides = [Side(rows.image(raw[kind]), rows.text(raw[f"{kind}_model"])) for kind in ("chosen", "rejected")]
    prompt = rows.prompt_of(raw["prompt"])
    return rows.comparison(file, row, "open_image_preferences", prompt, (sides[0], sides[1]), "a", shuffle=True)


def _at(values: Any, place: int) -> str | None:
    """Returns the text at a place of a list that may be shorter, or not there."""
    return rows.text(values[place]) if isinstance(values, list) and place < len(values) else None


def _fits(found: pa.DataType, expected: pa.DataType) -> bool:
    """Tells whether a type will do, as `parquet.alike` does; also for lists of text, and structs in any order."""
    if pa.types.is_struct(expected):
        return pa.types.is_struct(found) and all(
            found.get_field_index(name) >= 0 and parquet.alike(found.field(name).type, _TEXT) for name in SHOWN
        )
    if expected == _TEXTS:
        return (pa.types.is_list(found) or pa.types.is_large_list(found)) and parquet.alike(found.value_type, _TEXT)
    return parquet.alike(found, expected)


def _has_answers(path: Path) -> bool:
    return ANSWERED in parquet.schema(path).names
