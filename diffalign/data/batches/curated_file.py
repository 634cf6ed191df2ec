"""The list of curated images in a policy's folder: which were kept, their scores and ranks."""

from diffalign.core.records import Record

FILE = "curated.json"
"""The list's name in a policy's folder."""
Key = tuple[str, str]
"""An image, by the SHA-256 of its file's bytes, and the prompt that it was made for."""


class KeptImage(Record):
    """An image that was kept for its prompt; `rank` 1 is the best of all images."""

    image: str
    prompt: str
    score: float
    rank: int


class Curated(Record):
    """The list of kept images, the best first, and what became of the others."""

    by: str
    """`votes`, or the reward and its version."""
    images: int
    """Images of the train split for their prompts, scored or not."""
    unscored: int
    """Of them those without a score."""
    kept: tuple[KeptImage, ...]

    @property
    def lowest(self) -> float:
        """Returns the score of the last image that was kept."""
        return self.kept[-1].score

    def told(self) -> str:
        """Returns the list in one line: how many of how many images, by what, and their scores."""
        lost = f"; without a score, and dropped: {self.unscored:,}" if self.unscored else ""
        prompts = len({one.prompt for one in self.kept})
        return (
            f"curated by {self.by}: {len(self.kept):,} of {self.images:,} images kept, of {prompts:,} prompts, scores "
            f"{self.kept[0].score:.4g} to {self.lowest:.4g}{lost}"
        )
