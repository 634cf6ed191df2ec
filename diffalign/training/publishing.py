"""Writes a trained policy's folder: its weights, what was seen of its training, and policy.json."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.core.files import disk_errors, write_json
from diffalign.data.batches import curated_file
from diffalign.models import init_files, inits, rater_tokens
from diffalign.models.policies import save_denoiser
from diffalign.training import monitor
from diffalign.training.learner import model_with
from diffalign.training.spec import Spec


def publish(spec: Spec, weights: dict[str, Tensor], facts: dict[str, Any], work: Path) -> None:
    """Writes to WORK/out the denoiser with trained weights, the probes' pictures, the curated list, and policy.json.

    That has the params, `facts` and the environment. Raises UserError for weights that aren't finite.
    """
    check_finite(spec.name, weights)
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)  # what a killed attempt half wrote
    out.mkdir(parents=True)
    model = model_with(spec, weights)
    with disk_errors(out):
        if spec.policy.rater_tokens:
            rater_tokens.save(rater_tokens.detach(model.denoiser), out)
        start = inits.factors(spec.family, spec.model, spec.policy.init) if spec.policy.lora else {}
        save_denoiser(model, adapter_of(spec), out, start)
        if (pictures := work / monitor.PICTURES).is_dir():
            shutil.copytree(pictures, out / "probe")
        if spec.curated:
            shutil.copy(spec.curated, out / curated_file.FILE)
    meta = {**spec.policy.model_dump(), "schema": 1, "name": spec.name, "init_fingerprint": spec.init_fingerprint}
    meta |= {"adapter": adapter_of(spec), **facts, "environment": spec.machine.model_dump()}
    meta |= inits.about(spec.family, spec.model, spec.policy.init)
    write_json(out / "policy.json", meta)


def adapter_of(spec: Spec) -> str:
    """Returns what is published: full, lora, or none where only raters' vectors were trained.

    Then the policy is its init with these vectors; of an init that is a LoRA all weights, the sum.
    """
    tokens = spec.policy.rater_tokens
    if tokens is not None and tokens.only and not init_files.lora(spec.family, spec.policy.init):
        return "none"
    return spec.policy.adapter


def check_finite(name: str, weights: dict[str, Tensor]) -> None:
    """Raises UserError for trained weights that aren't finite: they aren't published."""
    if broken := [key for key, value in weights.items() if not torch.isfinite(value).all()]:
        raise UserError(
            f"training of {name}: expected finite weights, found NaN or infinity in {len(broken)} of "
            f"{len(weights)} tensors, {broken[0]} for one: nothing is published. Lower policies.{name}.lr or "
            "skip_grad_norm."
        )
