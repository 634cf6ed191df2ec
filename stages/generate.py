"""generate@POLICY: images of one policy for held-out prompts, from noise that doesn't depend on the policy."""

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffalign.core import files, publishing, records
from diffalign.core.errors import UserError
from diffalign.data.comparisons import table as comparisons
from diffalign.data.prompts.prompt_set import Prompt
from diffalign.diffusion.mixing import mixed
from diffalign.diffusion.process import Denoise
from diffalign.generation.gallery import DTYPE, Manifest, decided, forwards
from diffalign.generation.pipeline import sampling_of
from diffalign.generation.prompts import chosen, counted
from diffalign.generation.rules import rule as rules
from diffalign.generation.rules.rule import Rule
from diffalign.generation.writer import Decision, entries, jobs_of, write_images
from diffalign.models import family as families
from diffalign.models import inits, policies, rater_tokens
from diffalign.models.family import Family
from diffalign.rewards import reward as rewards
from diffalign.rewards.reward import Reward
from diffalign.runtime.environment import default_device
from diffalign.shapes.scenes import parse_caption

if TYPE_CHECKING:
    from diffalign.config.params import Params

COMPARISONS, POLICIES, OUT = Path("data/comparisons"), Path("models/policies"), Path("images")


def run(params: "Params", policy: str | None = None) -> None:
    """Writes `images/POLICY/`: PNGs and, last, a manifest with their checksums; goes on where a killed attempt stopped.

    Raises UserError where a set has no prompts, the policy can't be loaded, or it gives values that aren't finite.
    """
    if policy is None or policy not in params.policies:
        raise UserError(f"generate@{policy}: expected one of the policies {sorted(params.policies)}")
    publishing.check_target(OUT / policy)
    settings = params.generate
    reward = decider(params, policy)
    about = described(params, policy, reward)
    table = comparisons.read(COMPARISONS)
    prompts = with_kinds(chosen(table, settings.prompts))
    jobs, sets = jobs_of(prompts, settings.seeds), counted(prompts, settings.prompts, table)
    work = files.work_folder(
        f"generate-{policy}",
        [about, settings.batch_size, [asdict(prompt) for prompt in prompts]],
        inputs(params, policy),
        {"model.family": params.model.family},
    )
    with files.lock(work):
        out = work / "out"
        files.remove_unfinished(out)
        decision = Decision(rule_of(about["rules"]), reward, work / "notes") if reward else None
        write_images(
            lambda: load(params, policy),
            jobs,
            out,
            noise_seed=about["noise_seed"],
            resolution=params.precompute.resolution,
            how=sampling_of(about),
            batch_size=settings.batch_size,
            what=f"generate {policy}",
            mix=mixer(params, policy) if "mix_base" in about["rules"] else None,
            decision=decision,
        )
        images = tuple(entries(jobs, out, decision))
        records.write(out / "manifest.json", Manifest(**about, sets=tuple(sets), images=images))
        publishing.publish(out, OUT / policy)
        shutil.rmtree(work)
    if reward:
        sys.stderr.write(f"generate {policy}: {decided(reward.name, images)}. In {OUT / policy}/manifest.json\n")


def described(params: "Params", policy: str, reward: Reward | None) -> dict[str, Any]:
    """Returns what the manifest says of how a policy's images are made; says what a rule costs, on stderr."""
    made = params.sampling(policy)
    taken = forwards(made)
    if made["rules"].keys() - {"rater"}:
        plain = forwards(made | {"rules": {}})
        sys.stderr.write(
            f"generate {policy}: {', '.join(made['rules'])}: {taken:,} forwards of the network an image, as many as "
            f"{taken / plain:g} plain images\n"
        )
    return {
        "policy": policy,
        "noise_seed": params.policies[policy].noise_seed,
        "seeds": params.generate.seeds,
        **made,
        "reward": reward.version if reward else None,
        "forwards": taken,
        "dtype": DTYPE,
    }


def decider(params: "Params", policy: str) -> Reward | None:
    """Loads the reward that decides on a policy's images by a rule; None where none does."""
    rule = params.generate.override(policy).by_reward
    if rule is None:
        return None
    return rewards.load(rule.reward, params.model_dump()["rewards"][rule.reward], default_device())


def rule_of(settings: Mapping[str, Any]) -> Rule:
    """Returns the rule by which a reward decides, among those of a policy."""
    name = "optimise" if "optimise" in settings else "best_of"
    return rules.load(name, settings[name])


def mixer(params: "Params", policy: str) -> Callable[[Family], Denoise]:
    """Returns the function from a policy's model to its network mixed with the base's.

    The base is the init of a trained policy, and the base model of one that isn't.
    """
    model, one, made = params.model, params.policies[policy], params.sampling(policy)
    how, power = sampling_of(made), made["rules"]["mix_base"]["power"]

    def mix(own: Family) -> Denoise:
        base = families.load(model.family, model.path, (), own.device)
        inits.load_denoiser(base, model.family, model.path, model.path if one.method == "none" else one.init)
        times = [t for t, _ in how.sampler.plan(own.process, how.steps).moves]
        return mixed(own.denoise, rater_tokens.without(base.denoise), times, power)

    return mix


def with_kinds(prompts: list[Prompt]) -> list[Prompt]:
    """Returns the prompts with a category each: its set's, else the kind of scene of a caption of the shapes world."""
    scenes = {prompt.text: parse_caption(prompt.text) for prompt in prompts if prompt.category is None}
    return [replace(p, category=scene.kind) if p.category is None and (scene := scenes[p.text]) else p for p in prompts]


def load(params: "Params", policy: str) -> Family:
    """Loads the policy's model, with the parts that making images needs."""
    model, rater = params.model, params.generate.override(policy).rater
    found = policies.load_policy(model.family, model.path, POLICIES / policy, default_device(), ("vae", "text"))
    return rater_tokens.drawing_for(rater, found, policy)


def inputs(params: "Params", policy: str) -> list[Path]:
    """Lists the files that the images depend on beside the prompts: the policy's, its init's and the base model's."""
    folders = dict.fromkeys([POLICIES / policy, Path(params.policies[policy].init), Path(params.model.path)])
    return [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
