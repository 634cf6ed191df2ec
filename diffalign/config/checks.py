"""What in params.yaml doesn't hang together, though each value by itself may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffalign.config.methods import dpo, kto, mapo, sft
    from diffalign.config.params import Params
    from diffalign.config.reference import Reference
    from diffalign.config.training import Trained


def found(params: Params) -> list[str]:
    """What doesn't hang together, a line each, with its path in the YAML."""
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
    lines += of_weights(params)
    if params.reference.draws:
        lines += [f"reference.{line}" for line in of_drawing(params, params.reference)]
    for name, policy in params.policies.items():
        if policy.method != "none":
            lines += [f"policies.{name}.{line}" for line in of_training(params, policy)]
    return lines


def of_weights(params: Params) -> list[str]:
    """What in the pairs' weights says nothing under their rule."""
    lines = []
    if "strength" in params.pairs.weights and params.pairs.rule == "each":
        lines.append("pairs.weights: expected no strength with rule each, where every pair's strength is 1")
    if "rater" in params.pairs.weights and params.pairs.rule == "majority":
        lines.append("pairs.weights: expected no rater with rule majority, whose pairs are of several raters")
    return lines


def of_training(params: Params, policy: dpo.Settings | kto.Settings | mapo.Settings | sft.Settings) -> list[str]:
    """What in a trained policy doesn't hang together, with itself or with the rest: `key: what`, a line each."""
    lines = of_drawing(params, policy)
    if policy.reference == "cached":
        lines += of_cached(params, policy)
    if policy.batch_size % policy.micro_batch_size:
        lines.append(
            f"batch_size: expected a multiple of micro_batch_size {policy.micro_batch_size}, got {policy.batch_size}"
        )
    if policy.choose == "probe" and not params.probe.every:
        lines.append("choose: expected last, since probe.every is 0, got 'probe'")
    if policy.method == "dpo" and policy.reference == "none":
        lines.append("reference: expected live or cached, since Diffusion-DPO compares with it, got 'none'")
    if policy.method == "kto":
        lines += of_kto(params, policy)
    if policy.method == "dpo" and policy.safeguard is not None and not falls(params, policy):
        lines.append(
            "safeguard: expected null with link ipo or pairs.rule majority, where a loss may rise with the margin, "
            f"got {policy.safeguard}"
        )
    return lines


def of_kto(params: Params, policy: kto.Settings) -> list[str]:
    """What in a policy on images by themselves would need pairs, or a reference that isn't there."""
    lines = []
    if policy.reference != "live":
        lines.append(f"reference: expected live, since Diffusion-KTO compares with it, got {policy.reference!r}")
    if policy.flip == "pair":
        lines.append("flip: expected none or independent, since Diffusion-KTO has no pairs, got 'pair'")
    if params.pairs.weights:
        lines.append(
            "method: Diffusion-KTO learns from images by themselves, which have no weights of pairs: expected "
            f"pairs.weights [], got {params.pairs.weights}"
        )
    return lines


def of_drawing(params: Params, drawn: Reference | Trained) -> list[str]:
    """What in how pairs are drawn doesn't hang together."""
    lines = []
    if drawn.flip != "none" and not params.precompute.flips:
        lines.append(f"flip: expected none, since precompute.flips is false, got {drawn.flip!r}")
    if drawn.timesteps[0] >= drawn.timesteps[1]:
        lines.append(f"timesteps: expected a lower and a higher share, got {list(drawn.timesteps)}")
    return lines


def of_cached(params: Params, policy: Trained) -> list[str]:
    """Where a policy would train on other draws than those that the reference's errors are kept for."""
    if not params.reference.draws:
        return ["reference: expected live or none, since reference.draws is 0, got 'cached'"]
    lines = [
        f"{key}: expected {ours!r}, reference.{key}, since its reference is cached, got {getattr(policy, key)!r}"
        for key in ("init", "timesteps", "timestep_density", "prompt_drop", "flip")
        if (ours := getattr(params.reference, key)) != getattr(policy, key)
    ]
    if policy.stratified:
        lines.append("stratified: expected false, since its reference is cached: draws are the pairs', not a step's")
    return lines


def falls(params: Params, policy: dpo.Settings) -> bool:
    """Whether the loss falls with the margin everywhere, which the safeguard takes for granted."""
    return policy.link != "ipo" and params.pairs.rule == "each"
