"""The two DDPO loops that benchmarks/methods.py compares, on the same model, prompts, settings and draws.

S pictures of an optimizer step, T steps of a rollout, C latent channels, h w latent height and width.
"""

import io
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor, nn

from benchmarks.contenders import move
from diffalign.config.methods import ddpo
from diffalign.config.params import Params
from diffalign.diffusion.rollouts import Trajectory
from diffalign.methods import method as methods
from diffalign.methods.rolled import RolledMethod
from diffalign.models import family as families
from diffalign.planning.flops import synchronize
from diffalign.rollouts.slots import Slot
from diffalign.rollouts.source import RolloutSource
from diffalign.runtime import devices
from diffalign.training import start
from diffalign.training.dataset import Sources
from diffalign.training.learner import build, make_accelerator
from diffalign.training.step import optimizer_step
from stages import train

PARTS = ("rollout", "decode", "reward", "training")
"""Where a step's time goes; training is what the others leave."""
Seconds = dict[str, float]


@dataclass(frozen=True)
class Setting:
    """What the loops share: the params with the policy that is trained, and the machine."""

    params: Params
    policy: str
    device: str
    precision: str


@dataclass
class Clock:
    """Adds up the seconds of each part."""

    device: str
    seconds: Seconds = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Times a block."""
        synchronize(self.device)
        began = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds[part] += time.perf_counter() - began


class Loop(Protocol):
    """A training run that can be asked for its next optimizer steps."""

    clock: Clock
    micro_batch: int

    def step(self, step: int) -> float:
        """Takes an optimizer step 0, 1, ... with its rollout; returns the gradient's norm."""

    def move(self, device: str) -> None:
        """Moves networks and moments: to the CPU while the other has its turn on a GPU."""


class TimedSource(RolloutSource):
    """Our source of rollouts, timed."""

    def roll(self, denoise: Any, piece: Sequence[Slot], number: int) -> Trajectory:
        """Rolls out, timed."""
        with self.clock("rollout"):
            return super().roll(denoise, piece, number)

    def pictures(self, x0: Tensor) -> Tensor:
        """Decodes, timed."""
        with self.clock("decode"):
            return super().pictures(x0)

    def rewards(self, pixels: Tensor, piece: Sequence[Slot]) -> Tensor:
        """Scores, timed."""
        with self.clock("reward"):
            return super().rewards(pixels, piece)

    clock: Clock


class Ours:
    """diffalign's loop, as `training.run` drives it: conditions from shards, one rollout code for all methods."""

    def __init__(self, setting: Setting, micro_batch: int) -> None:
        self.micro_batch = micro_batch
        policy: Any = setting.params.policies[setting.policy]
        self.policy = policy.model_copy(update={"micro_batch_size": micro_batch})
        machine = start.this_machine().model_copy(update={"device": setting.device, "precision": setting.precision})
        spec = train.make_spec(setting.params, setting.policy, self.policy, "", machine)
        accelerator = make_accelerator(setting.device, 1, setting.precision)
        devices.set_up(accelerator.device, setting.precision)
        self.learner, self.clock = build(spec, accelerator, compiled=machine.compiled), Clock(setting.device)
        method: Any = methods.load(self.policy, Sources(spec, self.learner))
        assert isinstance(method, RolledMethod)
        self.source = method.source
        method.source = TimedSource(**{one.name: getattr(self.source, one.name) for one in fields(self.source)})
        object.__setattr__(method.source, "clock", self.clock)  # the source is frozen
        self.method: methods.Method = method

    def step(self, step: int) -> float:
        """Takes an optimizer step; returns the gradient's norm."""
        devices.set_up(self.learner.accelerator.device, self.learner.accelerator.mixed_precision)
        logs = optimizer_step(self.learner, self.method, self.policy, step, logging=True)
        assert logs is not None
        return logs["grad_norm"]

    def move(self, device: str) -> None:
        """Moves the policy and its moments."""
        move([self.learner.denoiser], self.learner.optimizer, device)


class Authors:
    """DDPO as the authors' public code does it, re-written: a Python loop over timesteps, for rollout and training.

    Prompts through the text encoder in the sampling loop, diffusers' DDIMScheduler, pictures decoded, turned to 8 bits
    and scored batch by batch in the loop; then a forward and a backward of a micro-batch a timestep, with guidance.
    Prompts are those of our `source`, and noise, too, until `own_noise`, to compare gradients.
    """

    def __init__(self, setting: Setting, micro_batch: int, source: RolloutSource) -> None:
        policy = setting.params.policies[setting.policy]
        assert isinstance(policy, ddpo.Settings)
        model = setting.params.model
        self.how, self.policy, self.micro_batch, self.device = policy.rollout, policy, micro_batch, setting.device
        half = torch.bfloat16 if setting.precision == "bf16" else torch.float32
        self.frozen: Any = families.load(model.family, model.path, ("vae", "text"), setting.device, half)
        self.trained = families.load(model.family, model.path, ("denoiser",), setting.device)
        self.unet: Any = self.trained.denoiser.requires_grad_(True).train()
        self.scheduler = DDIMScheduler.from_pretrained(
            Path(model.path) / "scheduler", timestep_spacing="leading", set_alpha_to_one=False
        )
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), lr=policy.lr, weight_decay=policy.weight_decay)
        self.autocast: Any = nullcontext
        if setting.precision == "bf16":
            self.autocast = lambda: torch.autocast(setting.device, torch.bfloat16)
        self.clock, self.places, self.texts = Clock(setting.device), source.places, source.texts
        self.shape, self.drawn = source.shape, True

    def own_noise(self) -> None:
        """Draws noise by torch from now on."""
        self.drawn = False

    def step(self, step: int) -> float:
        """Takes an optimizer step; returns the gradient's norm."""
        torch.use_deterministic_algorithms(False)  # theirs doesn't ask for them
        size = self.policy.batch_size
        slots = [self.places.slot(step, i) for i in range(size)]
        batches = [slots[i : i + self.micro_batch] for i in range(0, size, self.micro_batch)]
        sampled = [self.sampled(batch, step) for batch in batches]
        rewards = torch.cat([one["rewards"] for one in sampled])
        advantages = self.advantages(rewards, [slot.group for slot in slots]).to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.policy.lr * min(1.0, (step + 1) / max(self.policy.warmup_steps, 1))
        for one, own in zip(sampled, advantages.split(self.micro_batch), strict=True):
            self.learn(one, own)
        norm = nn.utils.clip_grad_norm_(self.unet.parameters(), self.policy.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)

    def move(self, device: str) -> None:
        """Moves the UNet and its moments."""
        move([self.unet], self.optimizer, device)

    @torch.no_grad()
    def sampled(self, slots: Sequence[Slot], number: int) -> dict[str, Any]:
        """Returns a batch's states [T + 1, B, C, h, w], their log-probabilities [T, B], conditions and rewards [B]."""
        with self.clock("rollout"), self.autocast():
            prompts = [self.texts[slot.prompt] for slot in slots]
            embeds = (
                self.frozen.encode_prompt([""] * len(slots))["hidden"],
                self.frozen.encode_prompt(prompts)["hidden"],
            )
            self.scheduler.set_timesteps(self.how.steps)
            states = [self.noise(slots, number, None)]
            log_probs = []
            for i, t in enumerate(self.scheduler.timesteps):
                out = self.predicted(states[-1], t, embeds)
                mean, std = self.moments(out, states[-1], t)
                states.append(mean + std * self.noise(slots, number, i))
                log_probs.append(log_probability(states[-1], mean, std))
        with self.clock("decode"):
            pixels = self.frozen.decode(states[-1]).clamp(-1, 1)
        with self.clock("reward"):
            rewards = torch.tensor([-kilobytes(picture) for picture in pixels.cpu()], dtype=torch.float64)
        return {"states": states, "log_probs": log_probs, "embeds": embeds, "rewards": rewards}

    def learn(self, sampled: dict[str, Any], advantages: Tensor) -> None:
        """Takes gradients of every timestep of a batch, a forward and a backward each."""
        states = sampled["states"]
        for i, t in enumerate(self.scheduler.timesteps):
            with self.autocast():
                out = self.predicted(states[i], t, sampled["embeds"])
            mean, std = self.moments(out, states[i], t)
            ratio = torch.exp(log_probability(states[i + 1], mean, std) - sampled["log_probs"][i])
            clip = self.policy.clip
            plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
            loss = torch.maximum(plain, clipped).sum() / self.how.steps
            (loss / self.policy.batch_size).backward()

    def predicted(self, x: Tensor, t: Tensor, embeds: Sequence[Tensor]) -> Tensor:
        """Returns the guided output [B, C, h, w], float32."""
        out = self.unet(torch.cat([x, x]), t, encoder_hidden_states=torch.cat([*embeds])).sample.float()
        uncond, cond = out.chunk(2)
        return uncond + self.how.guidance * (cond - uncond)

    def moments(self, out: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, float]:
        """Returns the mean [B, C, h, w] and the standard deviation of a step, by diffusers' scheduler."""
        step = self.scheduler.step(out, t, x, eta=1.0, variance_noise=torch.zeros_like(x))
        previous = int(t) - self.scheduler.config.num_train_timesteps // self.how.steps
        return step.prev_sample, math.sqrt(float(self.scheduler._get_variance(int(t), previous)))

    def noise(self, slots: Sequence[Slot], number: int, step: int | None) -> Tensor:
        """Returns unit noise [B, C, h, w] of the beginning (None) or of a step."""
        places, shape = self.places, self.shape
        if not self.drawn:
            return torch.randn(len(slots), *shape, device=self.device)
        if step is None:
            return torch.stack([places.start(number, slot, shape) for slot in slots]).to(self.device)
        return torch.stack([places.added(number, slot, step, shape) for slot in slots]).to(self.device)

    def advantages(self, rewards: Tensor, groups: list[int]) -> Tensor:
        """Returns rewards [S] standardised by their prompt's, and clipped."""
        found, of = torch.zeros_like(rewards), torch.tensor(groups)
        for group in of.unique():
            own = rewards[of == group]
            found[of == group] = (own - own.mean()) / (own.std(correction=0) + 1e-6)
        return found.clamp(-self.policy.advantage.clip, self.policy.advantage.clip).float()


def log_probability(x: Tensor, mean: Tensor, std: float) -> Tensor:
    """Returns the log-probability [B] of x under N(mean, std^2), the mean over C, h, w."""
    squares = (x.detach() - mean) ** 2 / (2 * std**2)
    return (-squares - math.log(std) - math.log(math.sqrt(2 * math.pi))).mean(dim=(1, 2, 3))


def kilobytes(pixels: Tensor) -> float:
    """Returns the size in kB of a picture [3, H, W] in [-1, 1] as a JPEG of quality 95."""
    array = ((pixels / 2 + 0.5) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=95)
    return len(buffer.getvalue()) / 1000
