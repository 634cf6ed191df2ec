"""The settings of a Diffusion-DPO policy."""

from typing import ClassVar, Literal

from diffalign.config.pairs import Pairs
from diffalign.config.training import Trained
from diffalign.config.values import Positive, Share


class Settings(Trained):
    """Diffusion-DPO (Wallace et al. 2023); `beta` in the official code's convention."""

    title: ClassVar[str] = "DPO"
    method: Literal["dpo"]
    beta: Positive
    link: Literal["sigmoid", "hinge", "ipo"]
    safeguard: Share | None

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what Diffusion-DPO can't do: without a reference, or the safeguard where a loss may rise."""
        lines = []
        if self.reference == "none":
            lines.append("reference: expected live or cached, since Diffusion-DPO compares with it, got 'none'")
        falls = self.link != "ipo" and pairs.rule == "each" and not pairs.ties  # with the margin, everywhere
        if self.safeguard is not None and not falls:
            lines.append(
                "safeguard: expected null with link ipo, pairs.rule majority or pairs.ties true, where a loss may rise "
                f"with the margin, got {self.safeguard}"
            )
        return lines
