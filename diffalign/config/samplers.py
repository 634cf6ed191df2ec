"""The settings of each sampler, a class for each name: `generate.sampler` in params.yaml.

A sampler NAME is implemented in `diffalign/diffusion/samplers/NAME.py`, whose `build` takes these settings.
"""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from diffalign.config.values import Model, Positive, Share

Process = Literal["diffusion", "flow"]
Spacing = Literal["leading", "trailing", "linspace"]

FAMILIES: dict[str, Process] = {"sd15": "diffusion", "sdxl": "diffusion", "sd3": "flow"}
"""The kind of samplers that a family's models need; of one that isn't here, generate says it on loading the model."""


class DDIM(Model):
    """DDIM; `eta` 0 is deterministic, 1 adds the noise of DDPM."""

    process: ClassVar[Process] = "diffusion"
    name: Literal["ddim"]
    eta: Share
    spacing: Spacing


class DPMpp2M(Model):
    """DPM-Solver++ of second order, multistep."""

    process: ClassVar[Process] = "diffusion"
    name: Literal["dpmpp_2m"]
    spacing: Spacing


class Euler(Model):
    """Euler's method on a diffusion model."""

    process: ClassVar[Process] = "diffusion"
    name: Literal["euler"]
    spacing: Spacing


class EulerAncestral(Model):
    """Euler's method on a diffusion model, with new noise at every step."""

    process: ClassVar[Process] = "diffusion"
    name: Literal["euler_ancestral"]
    spacing: Spacing


class FlowEuler(Model):
    """Euler's method on a flow model."""

    process: ClassVar[Process] = "flow"
    name: Literal["flow_euler"]


class FlowSDE(Model):
    """Flow-GRPO's stochastic sampler; its `noise` is 0.7."""

    process: ClassVar[Process] = "flow"
    name: Literal["flow_sde"]
    noise: Positive


class FlowDance(Model):
    """DanceGRPO's stochastic sampler; its `noise` is 0.3."""

    process: ClassVar[Process] = "flow"
    name: Literal["flow_dance"]
    noise: Positive


class FlowCPS(Model):
    """Coefficients-preserving sampling; `noise` is the share of a step's noise that is new, 0.7 to 0.9 as published."""

    process: ClassVar[Process] = "flow"
    name: Literal["flow_cps"]
    noise: Annotated[float, Field(gt=0, le=1)]


Settings = DDIM | DPMpp2M | Euler | EulerAncestral | FlowEuler | FlowSDE | FlowDance | FlowCPS
Sampler = Annotated[Settings, Field(discriminator="name")]
SAMPLERS: dict[str, Process] = {
    get_args(one.model_fields["name"].annotation)[0]: one.process for one in get_args(Settings)
}
"""The values of a sampler's `name`, and the kind of model that it samples from."""
