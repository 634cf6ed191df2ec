"""The settings of a DPOK policy."""

from typing import ClassVar, Literal

from diffalign.config.methods.ddpo import PolicyGradient
from diffalign.config.pairs import Pairs
from diffalign.config.values import Count, Model, Positive


class Value(Model):
    """The value network that is the baseline: a perceptron of `width`, taught `steps` times after each rollout."""

    width: Count
    lr: Positive
    steps: Count


class Settings(PolicyGradient):
    """DPOK (Fan et al. 2023): a policy gradient with a KL to the reference and a learnt baseline.

    On-policy: it trains on the last rollout only, where the authors' code draws from the last thousand transitions.
    """

    title: ClassVar[str] = "DPOK"
    method: Literal["dpok"]
    value: Value

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what DPOK can't do: without a KL, or with another trust region than its hard clamp."""
        lines = super().problems(pairs)
        if not self.kl.weight:
            lines.append("kl.weight: expected more than 0 with dpok, which is regularised by it, got 0")
        if self.trust != "clip":
            lines.append(f"trust: expected clip with dpok, got {self.trust!r}")
        return lines
