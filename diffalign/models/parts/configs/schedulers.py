"""The scheduler configs of diffusers: how images are noised, and what the stock sampler does beside its rule.

A scheduler's file describes the process (its betas, its prediction) and a sampler. The process is the model's; the
sampler is this project's own (params say which). Keys that change the times or the states of whatever sampler runs are
used or refused; those that only choose among the stock samplers' rules are neutral.
"""

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from diffalign.diffusion.process import Diffusion, Flow, Prediction, scaled_linear
from diffalign.models.parts.configs.schema import DiffusersConfig

Timesteps = Annotated[int, Field(ge=2, le=100_000)]
Beta = Annotated[float, Field(gt=0, lt=1)]
LEAST_SIGNAL = 1e-6
"""The least alpha_bar that x0 can be computed at from a prediction of the noise, in float32; published models: 5e-3."""
RULES = frozenset(
    {
        # Which rule a stock sampler steps by.
        *("skip_prk_steps", "solver_order", "algorithm_type", "solver_type", "lower_order_final", "euler_at_final"),
        *("predict_x0", "disable_corrector", "solver_p", "variance_type"),
        # Read only where another key, which is refused here, says so: clipping, thresholding, flow.
        *("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value", "flow_shift", "time_shift_type"),
        # Ends of a schedule in log-SNR; minus infinity, the default, isn't even JSON.
        "lambda_min_clipped",
    }
)
SPACING = (
    "images are made at the times that generate.sampler.spacing says, not at the file's. Where that is what you want, "
    "set this key to leading in the file"
)
ZERO_SNR = "models trained on a schedule that ends in pure noise aren't supported"


def only(value: str | bool, why: str) -> BeforeValidator:
    """Returns the check that a key has the one value that is supported; its message says why."""

    def check(found: Any) -> Any:
        if found != value or type(found) is not type(value):
            raise ValueError(f"{value!r} ({why})")
        return found

    return BeforeValidator(check)


class Schedule(DiffusersConfig):
    """scheduler_config.json of a variance-preserving diffusion model: Stable Diffusion 1.x, 2.x, XL.

    A key that the file lacks has the default of the class that the file names, as in the stock pipeline.
    """

    neutral: ClassVar[frozenset[str]] = RULES
    class_name: Literal[
        "DDIMScheduler",
        "PNDMScheduler",
        "DDPMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "UniPCMultistepScheduler",
    ] = Field(alias="_class_name")
    num_train_timesteps: Timesteps
    beta_start: Beta
    beta_end: Beta
    beta_schedule: Literal["scaled_linear", "linear"]
    trained_betas: Annotated[list[Beta], Field(max_length=100_000)] | None = None
    """The betas themselves; beta_start, beta_end and beta_schedule say nothing then."""
    prediction_type: Prediction = "epsilon"
    timestep_spacing: Annotated[Literal["leading"], only("leading", SPACING)]
    steps_offset: Literal[1]
    set_alpha_to_one: Literal[False]
    clip_sample: Literal[False]
    thresholding: Literal[False] = False
    rescale_betas_zero_snr: Annotated[Literal[False], only(False, ZERO_SNR)] = False
    interpolation_type: Literal["linear"] = "linear"
    timestep_type: Literal["discrete"] = "discrete"
    final_sigmas_type: Literal["zero"] = "zero"
    use_karras_sigmas: Literal[False] | None = False
    use_exponential_sigmas: Literal[False] | None = False
    use_beta_sigmas: Literal[False] | None = False
    use_lu_lambdas: Literal[False] | None = False
    use_flow_sigmas: Literal[False] | None = False
    use_dynamic_shifting: Literal[False] = False
    shift_terminal: None = None
    sigma_min: None = None
    sigma_max: None = None

    @model_validator(mode="before")
    @classmethod
    def add_defaults(cls, raw: dict[str, object]) -> dict[str, object]:
        """Adds the defaults of the class that the file names."""
        return DEFAULTS.get(str(raw.get("_class_name")), {}) | raw

    def problems(self) -> list[str]:
        """Lists betas that fall, and trained betas of another number than the timesteps."""
        found = []
        if self.beta_end < self.beta_start:
            found.append(f"beta_end: expected at least beta_start {self.beta_start}, found {self.beta_end}")
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            found.append(
                f"trained_betas: expected num_train_timesteps = {self.num_train_timesteps} of them, "
                f"found {len(self.trained_betas)}"
            )
        if not found and self.alpha_bar()[-1] < LEAST_SIGNAL:
            key = "beta_end" if self.trained_betas is None else "trained_betas"
            found.append(
                f"{key}: expected betas that leave a signal at the last timestep (alpha_bar from {LEAST_SIGNAL}), "
                f"found alpha_bar {self.alpha_bar()[-1]:.3g}"
            )
        return found

    def alpha_bar(self) -> Tensor:
        """Returns the schedule [T] that the betas make."""
        if self.trained_betas is not None:
            return torch.cumprod(1 - torch.tensor(self.trained_betas, dtype=torch.float32), dim=0)
        if self.beta_schedule == "scaled_linear":
            return scaled_linear(self.beta_start, self.beta_end, self.num_train_timesteps)
        betas = torch.linspace(self.beta_start, self.beta_end, self.num_train_timesteps, dtype=torch.float32)
        return torch.cumprod(1 - betas, dim=0)

    def process(self) -> Diffusion:
        """Returns the noising process."""
        return Diffusion(self.alpha_bar(), self.prediction_type)


LEADING: dict[str, object] = {"timestep_spacing": "leading", "steps_offset": 0}
LINSPACE: dict[str, object] = {
    "timestep_spacing": "linspace",
    "steps_offset": 0,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
DEFAULTS: dict[str, dict[str, object]] = {
    "DDIMScheduler": LEADING | {"set_alpha_to_one": True, "clip_sample": True},
    "PNDMScheduler": LEADING | {"set_alpha_to_one": False, "clip_sample": False},
    "DDPMScheduler": LEADING | {"set_alpha_to_one": True, "clip_sample": True},
    # These have no such keys as set_alpha_to_one and clip_sample; a file may, from another class.
    "EulerDiscreteScheduler": LINSPACE,
    "EulerAncestralDiscreteScheduler": LINSPACE,
    "HeunDiscreteScheduler": LINSPACE,
    "LMSDiscreteScheduler": LINSPACE,
    "DPMSolverMultistepScheduler": LINSPACE,
    "DPMSolverSinglestepScheduler": LINSPACE,
    "UniPCMultistepScheduler": LINSPACE,
}
"""Defaults of the keys that a file lacks, by the scheduler's class."""


class FlowSchedule(DiffusersConfig):
    """scheduler_config.json of a rectified flow: Stable Diffusion 3."""

    # Read only where use_dynamic_shifting, which is refused here, is on.
    neutral: ClassVar[frozenset[str]] = frozenset(
        {"base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"}
    )
    class_name: Literal["FlowMatchEulerDiscreteScheduler"] = Field(alias="_class_name")
    num_train_timesteps: Timesteps = 1000
    shift: Annotated[float, Field(gt=0, le=1000)]
    use_dynamic_shifting: Literal[False] = False
    invert_sigmas: Literal[False] = False
    shift_terminal: None = None
    use_karras_sigmas: Literal[False] | None = False
    use_exponential_sigmas: Literal[False] | None = False
    use_beta_sigmas: Literal[False] | None = False
    stochastic_sampling: Literal[False] = False

    def process(self) -> Flow:
        """Returns the noising process."""
        return Flow(self.num_train_timesteps, self.shift)
