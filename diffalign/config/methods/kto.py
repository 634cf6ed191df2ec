"""The settings of a Diffusion-KTO policy."""

from typing import ClassVar, Literal

from diffalign.config.pairs import Pairs
from diffalign.config.training import Trained
from diffalign.config.values import Positive, Share


class Settings(Trained):
    """Diffusion-KTO, which learns from images one by one; `beta` as in Diffusion-DPO."""

    title: ClassVar[str] = "KTO"
    method: Literal["kto"]
    beta: Positive
    desirable_share: Share

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what Diffusion-KTO can't do: without a live reference, or with what belongs to pairs."""
        lines = []
        if self.reference != "live":
            lines.append(f"reference: expected live, since Diffusion-KTO compares with it, got {self.reference!r}")
        if self.flip == "pair":
            lines.append("flip: expected none or independent, since Diffusion-KTO has no pairs, got 'pair'")
        for key, given in (("weights", pairs.weights), ("sources", pairs.sources)):
            if given:
                lines.append(
                    "method: Diffusion-KTO learns from images one by one, which have no weights of pairs: expected "
                    f"pairs.{key} empty, got {given}"
                )
        return lines
