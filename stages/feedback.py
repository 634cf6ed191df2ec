"""feedback: params and rewards in; what each policy's training reads of rewards, out, so that DVC trains it again"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffalign.config.methods import sft
from diffalign.config.rollout import Rolled
from diffalign.core import code, files
from diffalign.core.publishing import replacing

if TYPE_CHECKING:
    from diffalign.config.params import Params

OUT = Path("data/feedback")
REWARDS, SAMPLERS = "diffalign.rewards", "diffalign.diffusion.samplers"
hash_of = code.hasher("feedback")
CURATING = ("diffalign.evaluation.scoring", "diffalign.judging.judge")
"""The modules by which images of the data are scored, to be curated."""


def run(params: "Params") -> None:
    """Writes `data/feedback/POLICY.json` for each policy, on which train@POLICY depends.

    It has the settings, the code and the files of the rewards that the policy learns from, is curated by, or has its
    step chosen by; empty where no reward enters. Another reward, its code or its weights train no other policy again.
    """
    with replacing(OUT) as folder:
        for policy in params.policies:
            files.write_json(folder / f"{policy}.json", read_by(params, policy))


def read_by(params: "Params", name: str) -> dict[str, Any]:
    """Returns what a policy's training reads of rewards, and the code of the sampler that makes its own pictures."""
    policy, known = params.policies[name], params.model_dump(mode="json")["rewards"]
    if isinstance(policy, Rolled):
        judges = params.probe.rewards if policy.choose == "probe" else []
        return {
            "sampler": hash_of([f"{SAMPLERS}.{policy.rollout.sampler.name}"]),
            "rewards": {reward: about(reward, values) for reward, values in policy.reward.items()},
            "judges": {judge: about(judge, known[judge]) for judge in judges},
        }
    if isinstance(policy, sft.Settings) and policy.curate and policy.curate.by != sft.VOTES:
        by = policy.curate.by
        return {"scoring": hash_of(CURATING), "rewards": {by: about(by, known[by])}}
    return {}


def about(reward: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns a reward's settings, and the hashes of its code and of its folder; null where it has none, or not yet."""
    folder = Path(str(settings["path"])) if settings.get("path") else None
    found = files.hash_folder(folder) if folder and folder.is_dir() else None
    return {"settings": settings, "code": hash_of([f"{REWARDS}.{reward}"]), "files": found}
