"""rules: params in; what reward each policy's rule of sampling follows, out, so that DVC makes those images again"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffalign.core import code, files
from diffalign.core.publishing import replacing
from diffalign.judging.noted import noted

if TYPE_CHECKING:
    from diffalign.config.params import Params

OUT = Path("data/rules")
REWARDS = "diffalign.rewards"
hash_of = code.hasher("rules")


def run(params: "Params") -> None:
    """Writes `data/rules/POLICY.json` for each policy: the reward, its settings, hashes of its code and metrics.

    Empty where no reward decides on the policy's images: generate@POLICY depends on this file alone, so that other
    rewards, or their new weights, make none of its images again.
    """
    with replacing(OUT) as folder:
        for policy in params.policies:
            files.write_json(folder / f"{policy}.json", followed(params, policy))


def followed(params: "Params", policy: str) -> dict[str, Any]:
    """Returns what a policy's images depend on through the reward of their rule."""
    rule = params.generate.override(policy).by_reward
    if rule is None:
        return {}
    settings = params.model_dump(mode="json")["rewards"][rule.reward]
    return noted(rule.reward, settings) | {"code": hash_of([f"{REWARDS}.{rule.reward}"])}
