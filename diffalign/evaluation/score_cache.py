"""Scores that a reward has given, kept by image, prompt and what they depend on: a new policy rescores nobody else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffalign.core import files
from diffalign.core.code import code_hash
from diffalign.core.errors import UserError
from diffalign.core.kept import Kept
from diffalign.evaluation.scores import Floats, as_column, as_values

FOLDER = files.RUNS / "scores"
HOW = ("parallel", "per_minute", "retries", "timeout", "token_variable")
"""Settings that say how a service is asked, and change no score."""
Key = tuple[str, str]
"""An image, by the SHA-256 of its file's bytes, and the prompt that it is scored for."""


class ScoreCache:
    """One reward's scores by `Key`; `made_by` names the reward's version, its settings and the code, see `opened`.

    `lasting` says whether a missing score is an answer to keep; a service that failed may answer another time.
    `hits` counts the scores that were found.
    """

    def __init__(self, path: Path, reward: str, made_by: str, lasting: bool = True) -> None:
        self.kept, self.reward, self.made_by, self.lasting = Kept(path), reward, made_by, lasting
        self.hits = 0

    def get(self, keys: Sequence[Key]) -> dict[str, Floats] | None:
        """Returns the scores [B] of all keys by name, NaN where one is missing; None unless every key is known."""
        found = self.kept.get([(self.made_by, *key) for key in keys])
        if not found or any(scores is None for scores in found):
            return None
        try:
            columns = {name: as_column([scores[name] for scores in found]) for name in found[0]}
        except (LookupError, TypeError, ValueError) as error:
            raise UserError(f"{self.kept.path} has something else than scores ({error!r}): remove it.") from error
        self.hits += len(keys)
        return columns

    def put(self, keys: Sequence[Key], scores: Mapping[str, Floats]) -> None:
        """Keeps scores [B] by name; they are on the disk when this returns. UserError for an infinite one."""
        columns = {name: as_values(column) for name, column in scores.items()}
        self.kept.put(
            [
                ((self.made_by, *key), {name: column[i] for name, column in columns.items()})
                for i, key in enumerate(keys)
                if self.lasting or columns[self.reward][i] is not None
            ]
        )


def opened(reward: str, version: str, settings: Mapping[str, Any], lasting: bool = True) -> ScoreCache:
    """Opens a reward's cache: another version, other settings or other code of score@NAME finds nothing there."""
    own = {key: value for key, value in settings.items() if key not in HOW}
    parts = {"version": version, "settings": own, "code": code_hash("score", {"key": reward})}
    made_by = files.sha256_bytes(files.canonical_json(parts).encode())
    return ScoreCache(FOLDER / f"{reward}.sqlite", reward, made_by, lasting)
