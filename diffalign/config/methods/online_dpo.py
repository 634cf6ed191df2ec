"""The settings of an online DPO policy."""

from typing import ClassVar, Literal

from diffalign.config.pairs import Pairs
from diffalign.config.rollout import Compared, Forwards
from diffalign.config.values import Positive


class Settings(Compared):
    """Diffusion-DPO on the best and the worst of a prompt's own pictures; `beta` and `link` are as in `dpo`."""

    title: ClassVar[str] = "online DPO"
    method: Literal["online_dpo"]
    beta: Positive
    link: Literal["sigmoid", "hinge", "ipo"]

    def forwards(self) -> Forwards:
        """Returns a rollout, and the noise levels of two pictures a group, by policy and reference, unguided."""
        pair = 2 * self.draws / self.rollout.images_per_prompt
        return Forwards(self.rollout.steps * self.halves + pair, 0, pair)

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what it can't do: without a reference at hand."""
        lines = super().problems(pairs)
        if self.reference == "none":
            lines.append("reference: expected live, since Diffusion-DPO compares with it, got 'none'")
        return lines
