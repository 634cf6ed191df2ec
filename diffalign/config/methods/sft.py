"""The settings of a policy that is fine-tuned on the winners, or on curated images."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from diffalign.config.pairs import Pairs
from diffalign.config.training import Trained
from diffalign.config.values import Count, Model

VOTES = "votes"


class Curate(Model):
    """Which of the train split's images are trained on: the top share by votes or by a reward (Emu's recipe)."""

    by: str
    """`votes`, or the name of a reward."""
    keep: Annotated[float, Field(gt=0, le=1)]
    per_prompt: Count | None
    least: float | None


class Settings(Trained):
    """Fine-tuning on the winners; with `curate` on chosen images by themselves."""

    title: ClassVar[str] = "SFT"
    method: Literal["sft"]
    curate: Curate | None

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what curated images, which aren't pairs, can't have."""
        if self.curate is None:
            return []
        lines = []
        if self.reference == "cached":
            lines.append("reference: expected live or none with curate, whose images are no pairs, got 'cached'")
        if self.flip == "pair":
            lines.append("flip: expected none or independent with curate, whose images are no pairs, got 'pair'")
        for key, given in (("weights", pairs.weights), ("sources", pairs.sources)):
            if given:
                lines.append(f"curate: expected pairs.{key} empty, since its images all count the same, got {given}")
        if self.swap_labels and self.curate.least is not None:
            lines.append("curate.least: expected null with swap_labels, which keeps the lowest scores")
        return lines
