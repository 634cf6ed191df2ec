"""Columns of a table of comparisons: which one holds what, by its name, or as `data.settings.columns` says.

A field is what a comparison needs or may have; a column is where a table has it. A name that could be either is asked
about, never guessed.
"""

from collections.abc import Mapping, Sequence

from diffalign.core.errors import UserError

NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "caption", "text", "instruction", "description", "original_prompt"),
    "answer": ("answer", "label", "preference", "preferred", "choice", "winner", "vote", "better", "best", "pref"),
    "share": ("share", "share_a", "label_0", "probability_a", "prob_a"),
    "rater": ("rater", "rater_id", "user", "user_id", "annotator", "annotator_id", "worker", "worker_id"),
    "time": ("created_at", "timestamp", "time", "date"),
    "axis": ("axis", "criterion", "aspect"),
    "rater_group": ("rater_group", "group"),
    "ranking": ("ranking",),
    "split": ("split",),
}
"""Fields of one column, and the columns' names that are understood, in any case."""

PAIRS: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("image_a", "image_b"): (
        ("image_a", "image_b"),
        ("image_0", "image_1"),
        ("image_1", "image_2"),
        ("image0", "image1"),
        ("image1", "image2"),
        ("img_a", "img_b"),
        ("img_0", "img_1"),
        ("img1", "img2"),
        ("jpg_0", "jpg_1"),
        ("left", "right"),
        ("image_left", "image_right"),
        ("left_image", "right_image"),
        ("path1", "path2"),
        ("path_a", "path_b"),
        ("file_a", "file_b"),
        ("a", "b"),
    ),
    ("winner", "loser"): (
        ("winner", "loser"),
        ("chosen", "rejected"),
        ("preferred", "rejected"),
        ("preferred", "dispreferred"),
        ("win", "lose"),
        ("w", "l"),
        ("better", "worse"),
        ("chosen_image", "rejected_image"),
        ("chosen_path", "rejected_path"),
        ("image_w", "image_l"),
        ("image_chosen", "image_rejected"),
    ),
    ("votes_a", "votes_b"): (
        ("votes_a", "votes_b"),
        ("votes_0", "votes_1"),
        ("votes_1", "votes_2"),
        ("votes_image1", "votes_image2"),
        ("votes_left", "votes_right"),
    ),
    ("model_a", "model_b"): (
        ("model_a", "model_b"),
        ("model_0", "model_1"),
        ("model_1", "model_2"),
        ("model1", "model2"),
        ("model_left", "model_right"),
        ("chosen_model", "rejected_model"),
        ("winner_model", "loser_model"),
    ),
}
"""Fields that come in twos, and the names of their columns; model_a is the winner's where a winner has a column."""

FIELDS = (*NAMES, *(field for pair in PAIRS for field in pair))
ANSWERS = (("winner", "loser"), ("answer",), ("share",), ("votes_a", "votes_b"))
"""Ways in which a table says who won; it has one of them."""


def resolve(where: str, columns: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Returns the column of each field that a table has; `given` comes first, and "" there means that it has none.

    Raises UserError, as a question, where a field could be several columns, or where one that is needed has none.
    """
    known = check_given(where, columns, given)
    free = [name for name in columns if name not in known.values()]
    found = known | _pairs(where, free, known, given)
    free = [name for name in free if name not in found.values()]
    for field, usual in NAMES.items():
        if field in given or (field in ("answer", "share") and _answered(found)):
            continue
        matches = [name for name in free if name.strip().lower() in usual]
        if len(matches) > 1:
            raise UserError(question(where, columns, field, f"{' and '.join(matches)} could be it"))
        found |= dict.fromkeys([field], matches[0]) if matches else {}
    _check(where, columns, found)
    return found


def question(where: str, columns: Sequence[str], field: str, why: str) -> str:
    """Returns the question which column a field is, with how to answer it."""
    return (
        f"Which column of {where} is the {field}? {why}. It has {', '.join(columns) or 'no columns'}. Say it: --column "
        f"{field}=NAME (in params.yaml data.settings.columns: {{{field}: NAME}})."
    )


def check_given(where: str, columns: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Returns the columns that the user named; raises UserError for unknown fields and columns that aren't there."""
    if unknown := sorted(set(given).difference(FIELDS)):
        raise UserError(f"columns: expected fields among {', '.join(FIELDS)}, found {', '.join(unknown)}")
    for field, column in given.items():
        if column and column not in columns and column.split(".")[0] not in columns:
            raise UserError(f"columns: {field}: expected a column of {where} ({', '.join(columns)}), found {column!r}")
    return {field: column for field, column in given.items() if column}


def _pairs(where: str, columns: Sequence[str], known: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Returns the columns of fields that come in twos; no guess where the user named one of the two."""
    by_name = {name.strip().lower(): name for name in columns}
    found: dict[str, str] = {}
    for fields, names in PAIRS.items():
        other = {"image_a": "winner", "winner": "image_a"}.get(fields[0])
        if other in known or not set(fields).isdisjoint(given):
            continue
        matches = [pair for pair in names if set(pair) <= by_name.keys()]
        if len(matches) > 1:
            options = "; or ".join(" and ".join(pair) for pair in matches)
            raise UserError(question(where, columns, fields[0], f"{fields[0]} and {fields[1]} could be {options}"))
        found |= {field: by_name[name] for pair in matches for field, name in zip(fields, pair, strict=True)}
    if "image_a" in found and "winner" in found:
        why = (
            f"{found['image_a']} and {found['image_b']} could be the images, or {found['winner']} and {found['loser']}"
        )
        raise UserError(question(where, columns, "image_a", f"{why}; --column winner= says that the latter aren't"))
    return found


def _answered(found: Mapping[str, str]) -> bool:
    return any(set(fields) <= found.keys() for fields in ANSWERS)


def _check(where: str, columns: Sequence[str], found: Mapping[str, str]) -> None:
    """Raises UserError where the prompt, an image or the answer has no column, or several answer."""
    if "prompt" not in found:
        raise UserError(question(where, columns, "prompt", "None has a usual name"))
    for fields in (("winner", "loser"), ("image_a", "image_b")):
        missing = [field for field in fields if field not in found]
        if len(missing) == 1:
            raise UserError(question(where, columns, missing[0], "The other image is known, this one isn't"))
    if "image_a" not in found and "winner" not in found:
        raise UserError(
            question(where, columns, "image_a", "No two have usual names; also --column image_b=NAME, or winner, loser")
        )
    ways = [fields for fields in ANSWERS if set(fields) <= found.keys()]
    if not ways:
        raise UserError(
            question(
                where, columns, "answer", "None has a usual name; or share (of votes for a), or votes_a and votes_b"
            )
        )
    if len(ways) > 1:
        several = "; ".join(" and ".join(found[field] for field in fields) for fields in ways)
        raise UserError(question(where, columns, ways[0][0], f"Several say who won: {several}. Turn others off (=)"))
