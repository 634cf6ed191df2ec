"""The folder of a reward's weights: what must be in it, where that is published, and the version it makes."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open

from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.models.parts import weights

WEIGHTS, HEAD = "model.safetensors", "head.safetensors"
TOKENIZER = ("vocab.json", "merges.txt")
REWARD, SOURCE = "reward", "source_sha256"
"""Keys of a converted file's metadata: the reward it was made for, and the SHA-256 of what it was made from."""


REVISIONS = {
    "Qwen/Qwen2-VL-7B-Instruct": "eed13092ef92e448dd6875b2a00151bd3f7db0ac",
    "MizzenAI/HPSv3": "4f81e3e09edd82fe3c5f636444c721b592a735ca",
    "google-bert/bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "https://github.com/christophschuhmann/improved-aesthetic-predictor": "6934dd81792f086e613a121dbce43082cb8be85e",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "1c2b8495b28150b8a4922ee1c8edee224c284c0c",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
    "xswu/HPSv2": "697403c78157020a1ae59d23f111aa58ced35b0a",
    "yuvalkirstain/PickScore_v1": "a4e4367c6dfa7288a00c550414478f865b875800",
    "zai-org/ImageReward": "5736be03b2652728fb87788c9797b0570450ab72",
}
"""The commit of each repository at which several others' published code has it."""


@dataclass(frozen=True)
class Published:
    """Files of a reward's folder, and the repository on the Hugging Face hub, or on GitHub, that they are from.

    `checkpoint` is the published file that they are converted from; without one they are published as they are. `size`
    in bytes and `sha256` of the checkpoint are stated where it isn't on the hub, which states them itself.
    """

    repo: str
    files: tuple[str, ...]
    checkpoint: str = ""
    size: int = 0
    sha256: str = ""

    @property
    def revision(self) -> str | None:
        """Returns the commit to take them from; None where none is known."""
        return REVISIONS.get(self.repo)

    @property
    def on_github(self) -> bool:
        """Tells whether they are on GitHub instead of the hub."""
        return self.repo.startswith("https://github.com/")

    @property
    def weights(self) -> list[str]:
        """Lists those of the files that have weights."""
        return [name for name in self.files if name.endswith(".safetensors")]

    def remedy(self, reward: str, folder: Path) -> str:
        """Says how to get the files into a folder without fetching."""
        place = self.repo if self.on_github else f"https://huggingface.co/{self.repo}"
        at = f"revision {self.revision}" if self.revision else "a revision that you note (none is pinned here yet)"
        if not self.checkpoint:
            return f"{', '.join(self.files)} from {place}, {at}"
        return (
            f"{self.checkpoint} from {place}, {at}, converted by "
            f"`python -m tools.convert_reward {reward} {self.checkpoint} {folder} --sha256 ITS_SHA256`"
        )


class Weights(Protocol):
    """The settings of a reward with published weights."""

    @property
    def path(self) -> str:
        """Returns the folder of the weights and the tokenizer."""

    @property
    def sha256(self) -> str | None:
        """Returns the `digits` that the weights are to have; None for any."""


def present(reward: str, folder: Path, sources: tuple[Published, ...]) -> None:
    """Raises UserError unless the folder of a reward's weights has its files; the message says how to get them."""
    lacking = [source for source in sources if any(not (folder / name).is_file() for name in source.files)]
    if lacking:
        missing = [name for source in lacking for name in source.files if not (folder / name).is_file()]
        raise UserError(
            f"rewards.{reward}.path: expected a folder with {', '.join(n for s in sources for n in s.files)}; found "
            f"{folder} without {', '.join(missing)}. Nothing is downloaded while the DAG runs: run `{COMMAND} "
            f"fetch --rewards {reward}`, or bring {'; '.join(source.remedy(reward, folder) for source in lacking)}."
        )


def check(reward: str, settings: Weights, sources: tuple[Published, ...]) -> None:
    """Raises UserError unless the folder has a reward's files, undamaged, and with the `digits` that are asked for.

    Files that `checksums.json` in the folder names must have their checksums.
    """
    folder = Path(settings.path)
    present(reward, folder, sources)
    weights.verify(folder)
    found = digits(folder / name for source in sources for name in source.weights)
    if settings.sha256 is None:
        sys.stderr.write(
            f"rewards.{reward}.sha256 is null: DVC won't notice other weights in {folder}. Write {found!r} there.\n"
        )
    elif settings.sha256 != found:
        raise UserError(
            f"rewards.{reward}.sha256: expected weights {settings.sha256!r} in {folder}, found {found!r}. Bring the "
            f"others back; or write the new value there, and score@{reward} runs again."
        )


def digits(files: Iterable[Path]) -> str:
    """Returns the first 12 digits of the SHA-256 of each file of weights, joined by a dash: short names of them all."""
    return "-".join(weights.digest(file, "sha256").removeprefix("sha256:")[:12] for file in files)


def version(code: int, files: tuple[Path, ...], dtype: torch.dtype) -> str:
    """Returns a reward's version: its code's, the first digits of its weights' SHA-256, and the precision.

    Any of them changes scores: other weights in the same folder, too.
    """
    return f"{code}-{digits(files)}-{str(dtype).removeprefix('torch.')}"


def metadata(file: Path) -> dict[str, str]:
    """Returns what a safetensors file says of itself; UserError where it's none."""
    try:
        with safe_open(file, "pt") as opened:
            return dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} can't be read: expected safetensors, found {error}. Convert it again.") from error


def check_converted(reward: str, file: Path) -> None:
    """Raises UserError unless a converted file says that it was made for this reward: shapes alone can't tell."""
    found = metadata(file).get(REWARD)
    if found != reward:
        raise UserError(
            f"{file}: expected weights that were converted for {reward}, found {found or 'none that say for what'}. "
            f"Point rewards.{reward}.path at its own folder, or convert its checkpoint: python -m tools.convert_reward"
        )
