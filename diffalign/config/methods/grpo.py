"""The settings of a GRPO policy."""

from typing import ClassVar, Literal

from diffalign.config.methods.ddpo import PolicyGradient
from diffalign.config.pairs import Pairs


class Settings(PolicyGradient):
    """GRPO (Liu et al. 2025, Xue et al. 2025): DDPO with advantages within the pictures of a prompt."""

    title: ClassVar[str] = "GRPO"
    method: Literal["grpo"]

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what GRPO can't do: advantages across prompts."""
        lines = super().problems(pairs)
        if self.advantage.kind not in ("group", "group_mean"):
            lines.append(f"advantage.kind: expected group or group_mean with grpo, got {self.advantage.kind!r}")
        return lines
