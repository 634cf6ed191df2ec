"""The folder of a reward's weights: what must be in it, where that is published, and the version it makes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from diffalign.core.errors import UserError
from diffalign.models.parts import weights

WEIGHTS, HEAD = "model.safetensors", "head.safetensors"
TOKENIZER = ("vocab.json", "merges.txt")
REWARD = "reward"
"""The key of a converted file's metadata that names the reward it was made for."""


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
    """Files of a reward's folder, and the repository on the Hugging Face hub, or the page, that they are from.

    `checkpoint` is the published file that they are converted from; without one they are published as they are.
    """

    repo: str
    files: tuple[str, ...]
    checkpoint: str = ""

    @property
    def revision(self) -> str | None:
        """Returns the commit to take them from; None where none is known."""
        return REVISIONS.get(self.repo)

    def remedy(self, reward: str, folder: Path) -> str:
        """Says how to get the files into a folder."""
        place = self.repo if self.repo.startswith("https://") else f"https://huggingface.co/{self.repo}"
        at = f"revision {self.revision}" if self.revision else "a revision that you note (none is pinned here yet)"
        if not self.checkpoint:
            return f"bring {', '.join(self.files)} from {place}, {at}"
        return (
            f"bring {self.checkpoint} from {place}, {at}, and convert it: "
            f"`python -m tools.convert_reward {reward} {self.checkpoint} {folder} --sha256 ITS_SHA256`"
        )


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
            f"{'; '.join(source.remedy(reward, folder) for source in lacking)}."
        )
    weights.verify(folder)


def version(code: int, files: tuple[Path, ...], dtype: torch.dtype) -> str:
    """Returns a reward's version: its code's, the first digits of its weights' SHA-256, and the precision.

    Any of them changes scores: other weights in the same folder, too.
    """
    digests = "-".join(weights.digest(file, "sha256").removeprefix("sha256:")[:12] for file in files)
    return f"{code}-{digests}-{str(dtype).removeprefix('torch.')}"


def check_converted(reward: str, file: Path) -> None:
    """Raises UserError unless a converted file says that it was made for this reward: shapes alone can't tell."""
    try:
        with safe_open(file, "pt") as opened:
            found = (opened.metadata() or {}).get(REWARD)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} can't be read: expected safetensors, found {error}. Convert it again.") from error
    if found != reward:
        raise UserError(
            f"{file}: expected weights that were converted for {reward}, found {found or 'none that say for what'}. "
            f"Point rewards.{reward}.path at its own folder, or convert its checkpoint: python -m tools.convert_reward"
        )
