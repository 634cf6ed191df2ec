"""Checks that span several params: each value is valid alone, the combination isn't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffalign.config import alarms, gate, probe, round_checks, rules, samplers
from diffalign.config.methods import sft
from diffalign.config.rollout import Rolled

if TYPE_CHECKING:
    from diffalign.config.params import Params
    from diffalign.config.reference import Reference
    from diffalign.config.training import Trained


def problems(params: Params) -> list[str]:
    """Returns the combinations of values that contradict each other, a line each, with the path in the YAML."""
    lines = []
    if params.data.validation + params.data.test > 1:
        lines.append(
            "data.validation + data.test: expected shares with a sum of at most 1, "
            f"got {params.data.validation} + {params.data.test}"
        )
    if params.evaluate.baseline not in params.policies:
        lines.append(
            f"evaluate.baseline: expected one of the policies {sorted(params.policies)}, "
            f"got {params.evaluate.baseline!r}"
        )
    if unknown := [name for name in params.probe.rewards if name not in params.rewards]:
        lines.append(f"probe.rewards: expected some of rewards, {sorted(params.rewards)}, got {', '.join(unknown)}")
    if unknown := [name for name in params.evaluate.alarms.held_out if name not in params.rewards]:
        lines.append(
            f"evaluate.alarms.held_out: expected some of rewards, {sorted(params.rewards)}, got {', '.join(unknown)}"
        )
    lines += of_weights(params)
    lines += of_images(params)
    lines += of_rules(params)
    lines += of_gate(params)
    lines += round_checks.problems(params)
    if params.reference.draws:
        lines += [f"reference.{line}" for line in of_draws(params, params.reference)]
    for name, model in params.reward_models.items():
        lines += [f"reward_models.{name}.{line}" for line in model.problems()]
    for name, policy in params.policies.items():
        if policy.method != "none":
            lines += [f"policies.{name}.{line}" for line in of_trained(params, policy)]
    return lines


def of_images(params: Params) -> list[str]:
    """Lists prompts that there aren't, samplers that don't suit the model's family, overrides for unknown policies."""
    settings = params.generate
    lines = [f"generate.{line}" for line in settings.problems()]
    lines += [
        f"generate.overrides.{name}: expected one of the policies {sorted(params.policies)}, got {name!r}"
        for name in settings.overrides
        if name not in params.policies
    ]
    chosen = {"generate": settings.sampler}
    chosen |= {f"generate.overrides.{n}": own.sampler for n, own in settings.overrides.items() if own.sampler}
    needed = samplers.FAMILIES.get(params.model.family)
    suitable = [name for name, process in samplers.SAMPLERS.items() if process == needed]
    return lines + [
        f"{key}.sampler.name: expected one of {', '.join(suitable)}, since {params.model.family} is a {needed} model, "
        f"got {sampler.name!r}"
        for key, sampler in chosen.items()
        if needed is not None and sampler.process != needed
    ]


def of_rules(params: Params) -> list[str]:
    """Lists what rules of sampling can't do: with an unknown reward, one without a gradient, a base of their own."""
    lines = []
    for name, own in params.generate.overrides.items():
        found = rules.problems(params.generate.sampling(name))
        for rule, one in (("optimise", own.optimise), ("best_of", own.best_of)):
            rewards: dict[str, Any] = {n: r for n, r in params.rewards.items() if rule == "best_of" or has_gradient(r)}
            if one and one.reward not in rewards:
                kind = "" if rule == "best_of" else " with a gradient"
                known = ", ".join(rewards) or "none so far"
                found.append(f"{rule}.reward: expected one of rewards{kind}, {known}, got {one.reward!r}")
        policy = params.policies.get(name)
        if own.mix_base and policy and policy.method == "none" and policy.init == params.model.path:
            found.append(
                "mix_base: expected null, since the policy is the base model itself, model.path: nothing to mix"
            )
        lines += [f"generate.overrides.{name}.{line}" for line in found]
    return lines


def has_gradient(settings: object) -> bool:
    """Tells whether a reward, by its settings' class, has gradients that reach the pixels."""
    return bool(getattr(settings, "differentiable", False))


def of_gate(params: Params) -> list[str]:
    """Returns the names in the gate's conditions that the rest of the params doesn't have."""
    known = {
        "judge": (f"{gate.HELD_OUT}, or one of rewards", [gate.HELD_OUT, *params.rewards]),
        "set": (f"{gate.ALL}, or one of generate.prompts", [gate.ALL, *params.generate.prompts]),
        "filter": ("one of audit.filters", list(params.audit.filters)),
        "attribute": ("one of audit.attributes", list(params.audit.attributes)),
        "quiet": ("alarms of evaluate.alarms", list(alarms.NAMES)),
        "allowed": ("alarms of probe", list(probe.ALARMS)),
    }
    lines = []
    for number, condition in enumerate(params.gate.conditions):
        for key, value in condition:
            source, names = known.get(key, ("", [value]))
            unknown = [one for one in (value if isinstance(value, list) else [value]) if one not in names]
            if key in known and unknown:
                got = ", ".join(map(repr, unknown))
                lines.append(
                    f"gate.conditions.{number}.{key}: expected {source}, {', '.join(names) or 'none'}, got {got}"
                )
    return lines


def of_weights(params: Params) -> list[str]:
    """Returns the weights of pairs that mean nothing beside the section's other values."""
    lines = []
    if "strength" in params.pairs.weights and params.pairs.ties:
        lines.append("pairs.weights: expected no strength with pairs.ties true, since ties would weigh 0")
    if "rater" in params.pairs.weights and params.pairs.rule == "majority":
        lines.append("pairs.weights: expected no rater with rule majority, whose pairs are of several raters")
    return lines


def of_trained(params: Params, policy: Trained) -> list[str]:
    """Returns how a trained policy contradicts itself or the rest, as `key: what`."""
    lines = of_draws(params, policy)
    if policy.reference == "cached":
        lines += of_cached(params, policy)
    lines += of_micro_batch(policy)
    if policy.choose == "probe" and not params.probe.every:
        lines.append("choose: expected last, since probe.every is 0, got 'probe'")
    if isinstance(policy, Rolled):
        lines += of_rollouts(params, policy)
    if isinstance(policy, sft.Settings) and policy.curate:
        lines += of_curated(params, policy.curate.by)
    return lines + of_rater_tokens(params, policy) + policy.problems(params.pairs)


def of_rater_tokens(params: Params, policy: Trained) -> list[str]:
    """Returns what rater tokens can't go with, as `key: what`."""
    if policy.rater_tokens is None:
        return []
    lines = []
    if policy.method != "dpo":
        lines.append(f"rater_tokens: expected null but with method dpo, got method {policy.method!r}")
    if params.pairs.rule != "each":
        lines.append("rater_tokens: expected null with pairs.rule majority, whose pairs are of several raters")
    if policy.optimizer != "adamw":
        lines.append(f"optimizer: expected adamw with rater_tokens, got {policy.optimizer!r}")
    if policy.rater_tokens.only and policy.lora:
        lines.append("lora: expected null with rater_tokens.only true, which trains no other weight")
    return lines


def of_micro_batch(policy: Trained) -> list[str]:
    """Returns a batch that isn't whole micro-batches, as `key: what`; forwards of several moves hold whole batches."""
    size, micro = policy.batch_size, policy.micro_batch_size
    if size % micro == 0 or (policy.rows > 1 and micro % size == 0):
        return []
    other = ", or a divisor of it" if policy.rows > 1 else ""
    return [f"batch_size: expected a multiple of micro_batch_size {micro}{other}, got {size}"]


def of_curated(params: Params, by: str) -> list[str]:
    """Returns a reward to curate by that there isn't, or a reward model that DVC doesn't watch, as `key: what`."""
    if by == sft.VOTES:
        return []
    if by not in params.rewards:
        known = ", ".join([sft.VOTES, *sorted(params.rewards)])
        return [f"curate.by: expected votes or one of rewards, {known}, got {by!r}"]
    path = params.model_dump(include={"rewards"})["rewards"][by].get("path")
    if path and not params.rollouts.watches(path):
        return [
            f"curate.by: expected one whose path is rollouts.rewards_from, {params.rollouts.rewards_from}, or below "
            f"it, so that DVC trains the policy again when the reward model changes; {by}'s is {path!r}"
        ]
    return []


def of_rollouts(params: Params, policy: Rolled) -> list[str]:
    """Returns a sampler that doesn't suit the model's family, reward models that DVC doesn't watch, as `key: what`."""
    lines, sampler = params.rollouts.problems(policy), policy.rollout.sampler
    needed = samplers.FAMILIES.get(params.model.family)
    if needed is not None and sampler.process != needed:
        lines.append(
            f"rollout.sampler.name: expected one for a {needed} model, since {params.model.family} is one, "
            f"got {sampler.name!r}"
        )
    if policy.choose == "probe" and not (params.probe.images and params.probe.rewards):
        lines.append(
            "choose: expected last, since a judge chooses where a policy learns from its own pictures, and probe.images"
            " is 0 or probe.rewards empty, got 'probe'"
        )
    elif policy.choose == "probe" and policy.judge(params.probe.rewards) is None:
        lines.append(
            "choose: expected last, or a judge in probe.rewards that isn't in reward: one that is maximised chooses "
            f"what exploits it; got 'probe', and probe.rewards is {', '.join(params.probe.rewards)}. Add another of "
            "rewards to probe.rewards"
        )
    known = params.model_dump(include={"rewards"})["rewards"]
    for judge in params.probe.rewards if policy.choose == "probe" else ():
        path = known.get(judge, {}).get("path")
        if path and not params.rollouts.watches(path):
            lines.append(
                f"choose: expected judges, probe.rewards, whose path is rollouts.rewards_from, "
                f"{params.rollouts.rewards_from}, or below it, so that DVC trains the policy again when they change; "
                f"{judge}'s is {path!r}"
            )
    return lines


def of_draws(params: Params, drawn: Reference | Trained) -> list[str]:
    """Returns how the draws of timesteps and flips contradict each other, as `key: what`."""
    lines = []
    if drawn.flip != "none" and not params.precompute.flips:
        lines.append(f"flip: expected none, since precompute.flips is false, got {drawn.flip!r}")
    if drawn.timesteps[0] >= drawn.timesteps[1]:
        lines.append(f"timesteps: expected a lower and a higher share, got {list(drawn.timesteps)}")
    return lines


def of_cached(params: Params, policy: Trained) -> list[str]:
    """Returns where a policy's draws differ from those that the reference's kept errors are for, as `key: what`."""
    if not params.reference.draws:
        return ["reference: expected live or none, since reference.draws is 0, got 'cached'"]
    if policy.raters:
        return ["reference: expected live or none, since its raters are its own, without kept errors, got 'cached'"]
    if policy.round:
        return ["reference: expected live or none, since its pairs are a round's, without kept errors, got 'cached'"]
    lines = [
        f"{key}: expected {ours!r}, reference.{key}, since its reference is cached, got {getattr(policy, key)!r}"
        for key in ("init", "timesteps", "timestep_density", "prompt_drop", "flip")
        if (ours := getattr(params.reference, key)) != getattr(policy, key)
    ]
    if policy.stratified:
        lines.append("stratified: expected false, since its reference is cached: draws are the pairs', not a step's")
    return lines
