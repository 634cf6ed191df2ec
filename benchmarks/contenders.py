"""The training loops that benchmarks/train.py compares. Each is built from the files of the working folder.

B pairs in a micro-batch, C latent channels, h w latent height and width. All see the same pairs and draws of step and
slot, so that their losses can be compared.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.utils.data import DataLoader, Dataset

from benchmarks.worlds import photo_side
from diffalign.config.methods import dpo
from diffalign.config.params import Params
from diffalign.data.batches.pairs import Pair, make_pairs
from diffalign.data.comparisons import table as comparisons
from diffalign.data.shards.reader import Shards, prompt_key, stacked
from diffalign.diffusion.rng import pair_draw, pair_index
from diffalign.methods import method as methods
from diffalign.models import family as families
from diffalign.models.policies import add_lora
from diffalign.runtime import devices
from diffalign.training import start
from diffalign.training.dataset import Sources, make_times
from diffalign.training.learner import build, live_reference, make_accelerator
from diffalign.training.step import optimizer_step
from stages import train
from stages.train import COMPARISONS, SHARDS


@dataclass(frozen=True)
class Setting:
    """The settings that all contenders share: the params with the policy `dpo`, the machine, the memory option."""

    params: Params
    device: str
    precision: str
    checkpointing: bool
    workers: int
    """Processes that decode JPEGs for the loops that need them; 0 is the training process itself."""

    @property
    def policy(self) -> dpo.Settings:
        """Returns the settings of the policy that is trained."""
        settings = self.params.policies["dpo"]
        assert isinstance(settings, dpo.Settings)
        return settings


class Contender(Protocol):
    """A training run that can be asked for its next optimizer steps."""

    def parameters(self) -> Sequence[nn.Parameter]:
        """Returns the weights that are trained."""

    def step(self, step: int) -> float:
        """Takes an optimizer step on the pairs of step 0, 1, ...; returns the mean loss over them."""

    def move(self, device: str) -> None:
        """Moves networks and moments: to the CPU while others have their turn on a GPU."""


def move(networks: Sequence[nn.Module], optimizer: torch.optim.Optimizer, device: str) -> None:
    """Moves networks and an optimizer's moments, in place; its counters stay on the CPU."""
    for network in networks:
        network.to(device)
    for state in optimizer.state.values():
        state |= {name: value.to(device) for name, value in state.items() if torch.is_tensor(value) and value.dim()}


class Ours:
    """diffalign's own loop, as `training.run` drives it: latents and prompts from shards."""

    def __init__(self, setting: Setting, micro_batch: int, **changes: Any) -> None:
        policy = setting.policy.model_copy(update={"micro_batch_size": micro_batch, **changes})
        machine = start.this_machine().model_copy(update={"device": setting.device, "precision": setting.precision})
        spec = train.make_spec(setting.params, "dpo", policy, "", machine)
        accelerator = make_accelerator(setting.device, 1, setting.precision)
        devices.set_up(accelerator.device, setting.precision)
        self.spec, self.policy = spec, policy
        self.learner = build(spec, accelerator, compiled=machine.compiled)
        if setting.checkpointing:
            self.learner.denoiser.enable_gradient_checkpointing()
        self.method = methods.load(policy, Sources(spec, self.learner))

    def parameters(self) -> Sequence[nn.Parameter]:
        """Returns the weights that are trained."""
        return list(self.learner.trainable.values())

    def move(self, device: str) -> None:
        """Moves the policy, a live reference that is another network, and the moments."""
        owner = getattr(getattr(self.learner.reference, "denoise", None), "__self__", None)  # None: cached, or LoRA's
        move([self.learner.denoiser, *([owner.denoiser] if owner else [])], self.learner.optimizer, device)

    def cached_apart(self, step: int) -> float:
        """Returns how far the cached reference's loss is from the live one's, at a step's pairs' own draws."""
        model = self.learner.model
        live = live_reference(self.spec, model, model.denoiser, self.learner.parallel)
        sums = [0.0, 0.0]
        with torch.no_grad(), self.learner.accelerator.autocast():
            for batch in self.method.batches(model.denoise, self.learner.reference, step):
                for n, reference in enumerate((self.learner.reference, live)):
                    sums[n] += self.method.loss(model.denoise, reference, batch, False)[0].item()
        return abs(sums[0] - sums[1]) / self.policy.batch_size

    def step(self, step: int) -> float:
        """Takes an optimizer step; returns the mean loss."""
        logs = optimizer_step(self.learner, self.method, self.policy, step, logging=True)
        assert logs is not None
        return logs["loss"]


class InLoop:
    """Diffusion-DPO with JPEG decoding, VAE and text encoder in the loop: our re-writing of what public scripts do.

    Salesforce's train.py has one pair in a micro-batch and trains all weights beside a frozen second UNet; diffusers'
    script has several, encodes 8 images at a time, and trains LoRA, with the adapters off for the reference. `stored`
    takes the encodings from our shards instead, to compare the losses on equal latents.
    """

    def __init__(self, setting: Setting, micro_batch: int, adapter: str, stored: bool = False) -> None:
        torch.use_deterministic_algorithms(False)  # neither script asks for them
        self.policy, self.micro_batch, self.device = setting.policy, micro_batch, setting.device
        half = torch.bfloat16 if setting.precision == "bf16" else torch.float32
        model = setting.params.model
        self.frozen = families.load(model.family, model.path, ("vae", "text"), setting.device, half)
        self.trained = families.load(
            model.family, model.path, ("denoiser",), setting.device, half if adapter == "lora" else torch.float32
        )
        network: Any = self.trained.denoiser
        self.other: families.Family | None = None
        if adapter == "lora":
            lora = self.policy.lora
            assert lora is not None
            add_lora(network, lora.targets or self.trained.lora_targets, lora.rank, lora.alpha, self.policy.seed)
            self.reference = self.with_adapters_off
        else:
            network.requires_grad_(True)
            self.other = families.load(model.family, model.path, ("denoiser",), setting.device, half)
            self.reference = self.other.denoise
        if setting.checkpointing:
            network.enable_gradient_checkpointing()
        network.train()
        self.optimizer = torch.optim.AdamW(self.parameters(), weight_decay=self.policy.weight_decay)
        self.scheduler = DDPMScheduler.from_pretrained(Path(model.path) / "scheduler")
        self.autocast: Callable[[], Any] = nullcontext
        if setting.precision == "bf16":
            self.autocast = lambda: torch.autocast(setting.device, torch.bfloat16)
        self.pairs = make_pairs(comparisons.read(COMPARISONS), "train", **setting.params.pairs.model_dump())
        self.images = Images(self.pairs, setting.params.precompute.resolution)
        self.workers = setting.workers
        self.shards = (Shards(SHARDS, "images"), Shards(SHARDS, "prompts")) if stored else None

    def parameters(self) -> Sequence[nn.Parameter]:
        """Returns the weights that are trained."""
        return [p for p in self.trained.denoiser.parameters() if p.requires_grad]

    def step(self, step: int) -> float:
        """Takes an optimizer step of accumulated micro-batches; returns the mean loss."""
        size = self.policy.batch_size
        for group in self.optimizer.param_groups:
            group["lr"] = self.policy.lr * min(1.0, (step + 1) / max(self.policy.warmup_steps, 1))
        total = 0.0
        for slots, pixels in self.batches(step):
            with self.autocast():
                loss, accuracy, error, error_ref = self.loss(step, slots, pixels)
            (loss * len(slots) / size).backward()
            # Both scripts read these four back in every micro-step.
            total += loss.item() * len(slots)
            accuracy.item(), error.item(), error_ref.item()
        nn.utils.clip_grad_norm_(self.parameters(), self.policy.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total / size

    def move(self, device: str) -> None:
        """Moves the UNets and the moments; VAE and text encoder, a small part, stay."""
        others = [] if self.other is None else [self.other.denoiser]
        move([self.trained.denoiser, *others], self.optimizer, device)

    def batches(self, step: int) -> Iterator[tuple[list[int], Tensor]]:
        """Yields slots of the step and their pairs' pixels [B, 6, H, W], winner and loser along the channels."""
        size = self.policy.batch_size
        indices = [pair_index(self.policy.seed, step, slot, size, len(self.pairs)) for slot in range(size)]
        loader = DataLoader(self.images, self.micro_batch, sampler=indices, num_workers=self.workers)
        for number, pixels in enumerate(loader):
            start = number * self.micro_batch
            yield list(range(start, start + len(pixels))), pixels

    def loss(self, step: int, slots: Sequence[int], pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns mean loss, implicit accuracy, mean errors of policy and reference; winners come first in a batch."""
        x0, eps, t, cond = self.inputs(step, slots, torch.cat(pixels.chunk(2, dim=1)))
        x_t = self.scheduler.add_noise(x0, eps, t)
        errors = (self.trained.denoise(x_t, t, cond).float() - eps.float()).pow(2).mean(dim=[1, 2, 3])
        with torch.no_grad():
            errors_ref = (self.reference(x_t, t, cond).float() - eps.float()).pow(2).mean(dim=[1, 2, 3])
        difference, difference_ref = (e.chunk(2)[0] - e.chunk(2)[1] for e in (errors, errors_ref))
        inside = -0.5 * self.policy.beta * (difference - difference_ref)
        return -logsigmoid(inside).mean(), (inside > 0).float().mean(), errors.mean(), errors_ref.mean()

    @torch.no_grad()
    def inputs(
        self, step: int, slots: Sequence[int], pixels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Returns clean latents and noise [2B, C, h, w], timesteps [2B], conditions, for pixels [2B, 3, H, W]."""
        seed, size = self.policy.seed, self.policy.batch_size
        pairs = [self.pairs[pair_index(seed, step, slot, size, len(self.pairs))] for slot in slots]
        mean, logvar = self.moments(pairs, pixels)
        times = make_times(self.policy, self.trained.process)
        drop = self.policy.prompt_drop
        draws = [pair_draw(seed, step, slot, tuple(mean.shape[1:]), times, "none", drop) for slot in slots]
        posterior = torch.stack([d.posterior_w for d in draws] + [d.posterior_l for d in draws]).to(self.device)
        eps = torch.stack([d.eps for d in draws]).to(self.device).repeat(2, 1, 1, 1)
        t = torch.tensor([d.t for d in draws], device=self.device).repeat(2)
        prompts = ["" if d.drop else pair.prompt for pair, d in zip(pairs, draws, strict=True)]
        cond = {name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in self.encode(prompts).items()}
        side = self.images.resolution
        told = self.trained.image_cond((photo_side(side),) * 2, (0, 0), (side, side))
        cond |= {name: value.to(self.device).repeat(2 * len(slots), 1) for name, value in told.items()}
        return mean + (0.5 * logvar).exp() * posterior, eps, t, cond

    def moments(self, pairs: Sequence[Pair], pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and logvar [2B, C, h, w] of the scaled latents' posterior, 8 images a forward."""
        if self.shards:
            keys = [pair.image_w for pair in pairs] + [pair.image_l for pair in pairs]
            found = [self.shards[0].get(key) for key in keys]
        else:
            found = [self.frozen.encode_image(some) for some in pixels.to(self.device).split(8)]
        join = torch.stack if self.shards else torch.cat
        mean, logvar = (join([moments[name] for moments in found]).to(self.device) for name in ("mean", "logvar"))
        return mean, logvar

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Returns the conditions of B prompts."""
        if not self.shards:
            return self.frozen.encode_prompt(prompts)
        rows = stacked([self.shards[1].get(prompt_key(prompt)) for prompt in prompts])
        return {name: value.to(self.device) for name, value in rows.items()}

    def with_adapters_off(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """Computes the reference of a LoRA policy."""
        network: Any = self.trained.denoiser
        network.disable_adapters()
        try:
            return self.trained.denoise(x_t, t, cond)
        finally:
            network.enable_adapters()


class Images(Dataset[Tensor]):
    """Pairs as pixels [6, H, W] in [-1, 1], decoded, resized and cropped whenever they're asked for."""

    def __init__(self, pairs: Sequence[Pair], resolution: int) -> None:
        self.pairs, self.resolution = pairs, resolution
        self.encoded = dict(comparisons.iter_images(COMPARISONS, {k for p in pairs for k in (p.image_w, p.image_l)}))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Tensor:
        pair = self.pairs[index]
        return torch.cat([self.pixels(self.encoded[key]) for key in (pair.image_w, pair.image_l)])

    def pixels(self, data: bytes) -> Tensor:
        """Returns an image [3, H, W]: short side resized bilinearly, centre crop."""
        image = Image.open(io.BytesIO(data)).convert("RGB")
        scale = self.resolution / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - self.resolution) // 2, (image.height - self.resolution) // 2
        image = image.crop((left, top, left + self.resolution, top + self.resolution))
        return torch.from_numpy(np.asarray(image, np.float32) / 127.5 - 1).permute(2, 0, 1)


CONTENDERS: dict[str, Callable[[Setting, int], Contender]] = {
    "official-style": lambda setting, micro_batch: InLoop(setting, 1, "full"),
    "diffusers-style": lambda setting, micro_batch: InLoop(setting, micro_batch, setting.policy.adapter),
    "ours, live reference": Ours,
    "ours, cached reference": lambda setting, micro_batch: Ours(setting, micro_batch, reference="cached"),
}
"""The contenders by their names in the tables: made from the setting and the micro-batch of those that have one."""
