"""Prints a table of the samplers against diffusers' schedulers: `python -m tools.sampler_table`.

Each row is one sampler at one spacing and schedule, over whole trajectories from the same noise, with the same network
(any smooth function of x and t) and the same noise in each step. The difference is the largest of any element at any
step of any of the step counts, relative to 1 or to the largest element where that is more. The schedulers compute in
float32, Euler's on x / alpha, which a zero-SNR schedule takes up to 16,000: the last column is without their rounding.
Shapes: B batch, C latent channels, h w latent height and width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffalign.diffusion.process import Diffusion, Flow, Prediction, Process, scaled_linear, zero_terminal_snr
from diffalign.diffusion.samplers.sampler import load
from diffalign.diffusion.sampling import walk

STEPS = (2, 5, 20, 30, 50)
SHAPE = (2, 4, 8, 8)
BETAS = (0.00085, 0.012)
SD = {"beta_start": BETAS[0], "beta_end": BETAS[1], "beta_schedule": "scaled_linear"}
NAMES = {
    "ddim": "DDIMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
}


@dataclass(frozen=True)
class Case:
    """A sampler with its settings, and the scheduler that it must equal."""

    settings: dict[str, Any]
    prediction: str
    """epsilon or v_prediction, zero-SNR (with v_prediction), or flow."""
    shift: float = 1.0
    """Of a flow."""

    @property
    def scheduler(self) -> str:
        """The class's name in diffusers."""
        return NAMES.get(self.settings["name"], "FlowMatchEulerDiscreteScheduler")

    def process(self) -> Process:
        """Makes our process."""
        if self.prediction == "flow":
            return Flow(1000, self.shift)
        alpha_bar = scaled_linear(*BETAS, 1000)
        if self.prediction == "zero-SNR":
            return Diffusion(zero_terminal_snr(alpha_bar), "v_prediction")
        prediction: Prediction = "epsilon" if self.prediction == "epsilon" else "v_prediction"
        return Diffusion(alpha_bar, prediction)


def cases() -> Iterator[Case]:
    """Yields all rows of the table."""
    for prediction in ("epsilon", "v_prediction", "zero-SNR"):
        for spacing in ("leading", "trailing", "linspace"):
            for eta in (0.0, 0.5, 1.0):
                yield Case({"name": "ddim", "eta": eta, "spacing": spacing}, prediction)
            for name in ("dpmpp_2m", "euler", "euler_ancestral"):
                yield Case({"name": name, "spacing": spacing}, prediction)
    for shift in (1.0, 3.0):
        yield Case({"name": "flow_euler"}, "flow", shift)
        yield Case({"name": "flow_cps", "noise": 1.0}, "flow", shift)


def network(x: Tensor, t: Tensor) -> Tensor:
    """A smooth function of the input and the time, of about unit size."""
    return torch.tanh(x + t.view(-1, 1, 1, 1) / 500 - 1) * (0.5 + t.view(-1, 1, 1, 1) / 2000)


class Wide(torch.Tensor):
    """A float64 tensor that a scheduler's conversion to float32 leaves as it is."""

    def to(self, *_: Any, **__: Any) -> Tensor:
        """Returns the tensor itself."""
        return self


def difference(case: Case, steps: int, wide: bool) -> float:
    """Returns the largest difference of a trajectory of `steps` steps; `wide`: the scheduler computes in float64."""
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(steps))
    found = 0.0
    for one, two in zip(ours(case, steps, noise, wide), theirs(case, steps, noise, wide), strict=True):
        found = max(found, float((one - two).abs().max() / two.abs().max().clamp(min=1)))
    return found


def ours(case: Case, steps: int, noise: Tensor, wide: bool) -> list[Tensor]:
    """Returns our states [B, C, h, w] after each step; the numbers drawn are those that `theirs` draws."""
    plan = load(case.settings).plan(case.process(), steps)
    told = 1000 if case.prediction == "flow" else 1
    rng, dtype = torch.Generator().manual_seed(1), torch.float64 if wide else torch.float32

    def added(step: int) -> Tensor:
        return torch.randn(SHAPE, generator=rng, dtype=dtype).float()

    return [x for _, _, x in walk(lambda x, t: network(x, t * told), plan, noise, added, least=0.0)]


def theirs(case: Case, steps: int, noise: Tensor, wide: bool) -> list[Tensor]:
    """Returns the scheduler's states [B, C, h, w] after each step, at our scale."""
    scheduler = make_scheduler(case)
    scheduler.set_timesteps(steps)
    if wide:
        noise = noise.double().as_subclass(Wide)
        for name in ("alphas_cumprod", "final_alpha_cumprod", "sigmas"):
            if hasattr(scheduler, name):
                setattr(scheduler, name, getattr(scheduler, name).double())
    rng = torch.Generator().manual_seed(1)
    options = {"eta": case.settings["eta"]} if case.settings["name"] == "ddim" else {}
    options |= {"generator": rng}
    x, states = noise * getattr(scheduler, "init_noise_sigma", 1.0), []
    for i, t in enumerate(scheduler.timesteps):
        # Euler's schedulers keep x / alpha.
        in_sigma = case.settings["name"].startswith("euler")
        told = scheduler.scale_model_input(x, t) if in_sigma else x
        out = network(told, torch.full((len(x),), t.item()))
        x = scheduler.step(out, t, x, **options).prev_sample
        states.append(x / (scheduler.sigmas[i + 1] ** 2 + 1) ** 0.5 if in_sigma else x)
    return states


def make_scheduler(case: Case) -> Any:
    """Makes the scheduler, with the settings that the sampler's docstring names."""
    import diffusers

    made = getattr(diffusers, case.scheduler)
    if case.prediction == "flow":
        return made(1000, shift=case.shift, stochastic_sampling=case.settings["name"] == "flow_cps")
    zero_snr = case.prediction == "zero-SNR"
    others = {"clip_sample": False, "set_alpha_to_one": False} if case.settings["name"] == "ddim" else {}
    return made(
        1000,
        **SD,
        **others,
        steps_offset=1,
        timestep_spacing=case.settings["spacing"],
        prediction_type="v_prediction" if zero_snr else case.prediction,
        rescale_betas_zero_snr=zero_snr,
    )


def rows() -> Iterator[tuple[str, str, float, float]]:
    """Yields (sampler, scheduler, largest difference over the step counts, and to float64) of each case."""
    for case in cases():
        settings = ", ".join(f"{key} {value}" for key, value in case.settings.items() if key != "name")
        kind = f"{case.prediction}, shift {case.shift}" if case.prediction == "flow" else case.prediction
        name = ", ".join(filter(None, (case.settings["name"], settings, kind)))
        narrow, wide = (max(difference(case, steps, wide) for steps in STEPS) for wide in (False, True))
        yield name, case.scheduler, narrow, wide


def main() -> None:
    """Prints the table as Markdown."""
    print(f"Over {', '.join(map(str, STEPS))} steps:\n")
    print("| sampler | diffusers | largest difference | to it in float64 |\n|---|---|---|---|")
    for name, scheduler, narrow, wide in rows():
        print(f"| {name} | {scheduler} | {narrow:.1e} | {wide:.1e} |")


if __name__ == "__main__":
    main()
