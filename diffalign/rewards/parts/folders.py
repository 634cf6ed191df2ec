"""The folder of a reward's weights: what must be in it, where that is published, and the version it makes."""

from dataclasses import dataclass
from pathlib import Path

import torch

from diffalign.core.errors import UserError
from diffalign.models.parts import weights

WEIGHTS = "model.safetensors"
TOKENIZER = ("vocab.json", "merges.txt")


@dataclass(frozen=True)
class Published:
    """A repository on the Hugging Face hub; `revision` is the commit that was checked, None where none is known.

    `made` says how a file that isn't published as it's needed is made.
    """

    repo: str
    files: tuple[str, ...]
    revision: str | None = None
    made: str = ""

    def remedy(self, folder: Path) -> str:
        """Says how to get the files into a folder."""
        at = f"revision {self.revision}" if self.revision else "a revision that you note: none is pinned here yet"
        return f"bring {', '.join(self.files)} of https://huggingface.co/{self.repo} at {at}, into {folder}{self.made}"


def check(reward: str, folder: Path, sources: tuple[Published, ...]) -> None:
    """Raises UserError unless the folder of a reward's weights has its files; the message says where they are from.

    Files that `checksums.json` in the folder names must have their checksums.
    """
    lacking = [source for source in sources if any(not (folder / name).is_file() for name in source.files)]
    if lacking:
        missing = [name for source in lacking for name in source.files if not (folder / name).is_file()]
        raise UserError(
            f"rewards.{reward}.path: expected a folder with {', '.join(n for s in sources for n in s.files)}; found "
            f"{folder} without {', '.join(missing)}. Nothing is downloaded while the DAG runs: "
            f"{'; '.join(source.remedy(folder) for source in lacking)}."
        )
    weights.verify(folder)


def version(code: int, files: tuple[Path, ...], dtype: torch.dtype) -> str:
    """Returns a reward's version: its code's, the first digits of its weights' SHA-256, and the precision.

    Any of them changes scores: other weights in the same folder, too.
    """
    digests = "-".join(weights.digest(file, "sha256").removeprefix("sha256:")[:12] for file in files)
    return f"{code}-{digests}-{str(dtype).removeprefix('torch.')}"
