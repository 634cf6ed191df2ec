"""The settings of a DiffusionNFT policy."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from diffalign.config.pairs import Pairs
from diffalign.config.rollout import Advantage, Forwards, Kl, Renoised
from diffalign.config.values import Model, Positive, Whole


class OldPolicy(Model):
    """How the policy that makes the pictures follows: it keeps min(rate * (step - start), most) of itself each step."""

    start: Whole
    rate: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    most: Annotated[float, Field(ge=0, lt=1)]


class Settings(Renoised):
    """DiffusionNFT (Zheng et al. 2025): towards good pictures and away from bad ones."""

    title: ClassVar[str] = "NFT"
    method: Literal["nft"]
    advantage: Advantage
    strength: Positive
    """The paper's beta: 1, or 0.1."""
    old: OldPolicy
    kl: Kl

    @property
    def keeps_old(self) -> bool:
        """Returns True: an old policy makes the pictures."""
        return True

    def forwards(self) -> Forwards:
        """Returns a rollout, and each noise level by the old policy, by the new one, by the reference with a KL."""
        seen = self.draws * (2 if self.kl.weight else 1)
        return Forwards((self.rollout.steps + seen) * self.halves, 0, self.draws * self.halves)

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what DiffusionNFT can't do: several updates a rollout, dropped prompts, moves."""
        lines = super().problems(pairs)
        if self.rollout.updates != 1:
            lines.append(f"rollout.updates: expected 1 with nft, got {self.rollout.updates}")
        if self.kl.space != "output":
            lines.append(f"kl.space: expected output with nft, which has no moves, got {self.kl.space!r}")
        if self.prompt_drop:
            lines.append(f"prompt_drop: expected 0 with nft, got {self.prompt_drop:g}")
        if self.advantage.kind == "history":
            lines.append("advantage.kind: expected batch, group or group_mean with nft, got 'history'")
        return lines
