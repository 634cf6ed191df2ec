"""Builds the embedded base model, `assets/tiny-sd`: a Stable Diffusion in miniature for the shapes world.

First a VAE is trained (64 px, f = 8, 16 channels), then a UNet and a CLIP text encoder together on cached latents: long
on mildly flawed drawings, which teach shapes, then briefly on severely flawed ones (`messy_layout`), so that alignment
has flaws to correct. Some captions are wrong on purpose, too (`wrong_scene`).
Legend: `B` images, `N` training images, `h w` latent pixels (8), `C` latent channels (16), `L` tokens, `D` width.
"""

import os
import shutil
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from diffalign.core.files import lock, work_folder, write_bytes, write_text
from diffalign.core.progress import Progress
from diffalign.core.publishing import publish
from diffalign.shapes.build import tiny_model
from diffalign.shapes.build.fit import Loss, State, fit
from diffalign.shapes.scenes import (
    COLOURS,
    MILD,
    RELATIONS,
    SEVERE,
    SHAPES,
    SIZES,
    Flaws,
    Scene,
    caption,
    messy_layout,
    render,
    sample_scene,
)

KL_WEIGHT = 1e-3
WRONG_CAPTIONS = 0.12
PROMPT_DROP = 0.1
SNR_CAP = 5.0
SHAPING = (300, 900)  # half of the timesteps are drawn here: shapes are clear below, and lost in noise above


def run(
    out_dir: Path = Path("assets/tiny-sd"),
    seed: int = 0,
    vae_steps: int = 1000,
    max_steps: int = 5000,
    spoil_steps: int = 600,
    images: int = 40_000,
    device: str | None = None,
) -> None:
    """Builds the model in `out_dir` (replaced whole) in about an hour on 2 CPU cores; resumes a killed run."""
    torch.set_flush_denormal(True)  # AdamW's second moments of unused tokens decay to denormals, which are slow
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    steps = {"vae": vae_steps, "unet": max_steps, "spoil": spoil_steps}
    work = work_folder("pretrain", {"seed": seed, "steps": steps, "images": images, "device": chosen.type}, [])
    with lock(work):
        vae = train_vae(work, seed, vae_steps, chosen)
        data = latents(work / "mild.safetensors", vae, seed, images, chosen)
        set_scale(vae, data)
        parts = train_unet(work, vae, data, seed, max_steps, chosen)
        messier = latents(work / "severe.safetensors", vae, seed + 5, images * 2 // 5, chosen, SEVERE)
        write_model(out_dir, spoil(work, vae, parts, messier, seed, spoil_steps, chosen))
        shutil.rmtree(work)


def world_batch(seed: int, index: int, count: int, flaws: Flaws = MILD) -> tuple[torch.Tensor, list[str]]:
    """Returns training pictures `index` to `index + count`, float32 `[B, 3, 64, 64]` in [-1, 1], and their captions.

    Each depends on (seed, its index) only; 12% of the captions have one attribute wrong.
    """
    pictures, captions = [], []
    for i in range(index, index + count):
        rng = np.random.default_rng((seed, i))
        scene = sample_scene(rng)
        pictures.append(render(scene, layout=messy_layout(scene, rng, flaws=flaws)))
        captions.append(caption(wrong_scene(scene, rng) if rng.random() < WRONG_CAPTIONS else scene))
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return pixels.float() / 127.5 - 1, captions


def wrong_scene(scene: Scene, rng: np.random.Generator) -> Scene:
    """Returns a scene with one attribute changed: background, relation, or one object's colour, shape or size."""

    def other(options: Iterable[str], now: str) -> str:
        return str(rng.choice([o for o in options if o != now]))

    what = rng.choice(["background", "colour", "shape", "relation" if scene.relation else "size"])
    if what == "background":
        return replace(scene, background=other(COLOURS, scene.background))
    if what == "relation":
        return replace(scene, relation=other(RELATIONS, scene.relation))
    which = int(rng.integers(len(scene.objects)))
    options = {"colour": COLOURS, "shape": SHAPES, "size": SIZES}[str(what)]
    changed = replace(scene.objects[which], **{str(what): other(options, getattr(scene.objects[which], what))})
    return replace(scene, objects=(*scene.objects[:which], changed, *scene.objects[which + 1 :]))


def train_vae(work: Path, seed: int, steps: int, device: torch.device, batch: int = 32) -> Any:
    """Trains the VAE, resuming from `work`; returns it with its averaged weights, in evaluation mode."""
    torch.manual_seed(seed)
    vae = tiny_model.new_vae().to(device, memory_format=torch.channels_last)

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        pixels = world_batch(seed + 1, step * batch, batch)[0].to(device, memory_format=torch.channels_last)
        return vae_loss(vae, pixels, torch.Generator().manual_seed(seed * 1_000_003 + step))

    ema = fit("vae", vae, loss, steps=steps, checkpoint=work / "vae.safetensors", ema_decay=0.995)
    vae.load_state_dict(ema)
    return vae.eval().requires_grad_(False)


def vae_loss(vae: Any, pixels: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
    """Returns the VAE's loss and logs: L1 + 2 squared error + 0.5 L1 of edges + a tiny KL, each a mean.

    Edges are the differences between neighbouring pixels.
    """
    moments = vae.encode(pixels).latent_dist
    noise = torch.randn(moments.mean.shape, generator=generator).to(pixels.device)
    error = vae.decode(moments.mean + moments.std * noise).sample - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    kl = 0.5 * (moments.mean.square() + moments.var - 1 - moments.logvar).mean()
    squared = error.square().mean()
    loss = error.abs().mean() + 2 * squared + 0.5 * edges + KL_WEIGHT * kl
    return loss, {"psnr": psnr(squared.item()), "kl": kl.item(), "std": moments.mean.std().item()}


def psnr(mean_squared_error: float) -> float:
    """Returns the PSNR in decibels of a mean squared error of pixels in [-1, 1]."""
    return float(10 * np.log10(4 / max(mean_squared_error, 1e-12)))


@torch.no_grad()
def latents(
    path: Path, vae: Any, seed: int, images: int, device: torch.device, flaws: Flaws = MILD, batch: int = 64
) -> State:
    """Loads latents, encoded into `path` once: unscaled `mean`, `std` float16 `[N, C, h, w]`; `ids` int64 `[N, L]`."""
    if not path.exists():
        tokenizer = tiny_model.new_tokenizer()
        means, stds, ids = [], [], []
        progress = Progress("latents", images, every=20.0)
        for start in range(0, images, batch):
            pixels, captions = world_batch(seed + 2, start, min(batch, images - start), flaws)
            moments = vae.encode(pixels.to(device, memory_format=torch.channels_last)).latent_dist
            means.append(moments.mean.half().cpu())
            stds.append(moments.std.half().cpu())
            ids.append(tokenizer(captions, padding="max_length", return_tensors="pt").input_ids)
            progress.update(len(captions))
        stacked = {"mean": torch.cat(means), "std": torch.cat(stds), "ids": torch.cat(ids)}
        write_bytes(path, save({k: v.contiguous() for k, v in stacked.items()}))
    return load_file(path)


def set_scale(vae: Any, data: State) -> None:
    """Sets the VAE's scaling factor so that scaled latents have standard deviation 1."""
    mean, std = (data[k][:4096].float() for k in ("mean", "std"))
    vae.register_to_config(scaling_factor=round(1 / float((mean.var() + std.square().mean()).sqrt()), 5))


def train_unet(work: Path, vae: Any, data: State, seed: int, steps: int, device: torch.device) -> torch.nn.ModuleDict:
    """Trains UNet (`unet`) and text encoder (`text`) on cached latents; returns them with their averaged weights."""
    torch.manual_seed(seed + 3)
    tokenizer = tiny_model.new_tokenizer()
    parts = torch.nn.ModuleDict({"unet": tiny_model.new_unet(), "text": tiny_model.new_text_encoder(tokenizer)}).to(
        device
    )
    loss = denoising(parts, vae, data, seed * 1_000_003, device, row_shares(data["ids"], tokenizer), SHAPING)
    ema = fit("unet", parts, loss, steps=steps, checkpoint=work / "unet.safetensors", ema_decay=0.998)
    parts.load_state_dict(ema)
    return parts


def spoil(
    work: Path, vae: Any, parts: torch.nn.ModuleDict, data: State, seed: int, steps: int, device: torch.device
) -> tiny_model.Tiny:
    """Trains the model gently on severely flawed drawings, so that it draws known shapes carelessly; returns it."""
    loss = denoising(parts, vae, data, seed * 1_000_003 + 10_000_019, device, torch.ones(len(data["ids"])), None)
    checkpoint = work / "spoilt.safetensors"
    ema = fit("spoil", parts, loss, steps=steps, checkpoint=checkpoint, muon_lr=2e-3, adam_lr=4e-4, ema_decay=0.99)
    parts.load_state_dict(ema)
    return tiny_model.Tiny(vae, parts["unet"], parts["text"], tiny_model.new_tokenizer(), tiny_model.new_scheduler())


def denoising(
    parts: torch.nn.ModuleDict,
    vae: Any,
    data: State,
    seed: int,
    device: torch.device,
    shares: torch.Tensor,
    shaping: tuple[int, int] | None,
    batch: int = 48,
) -> Loss:
    """Returns a loss function of the step, on rows drawn by `shares` [N], half of their timesteps from `shaping`."""
    empty = tiny_model.new_tokenizer()([""], padding="max_length", return_tensors="pt").input_ids
    scale, alpha_bar = vae.config.scaling_factor, tiny_model.new_scheduler().alphas_cumprod

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(seed + step)
        rows = torch.multinomial(shares, batch, replacement=True, generator=generator)
        noise = torch.randn(2, batch, *data["mean"].shape[1:], generator=generator)
        x0 = (data["mean"][rows] + data["std"][rows] * noise[0]) * scale
        t = torch.randint(len(alpha_bar), (batch,), generator=generator)
        if shaping:
            t[::2] = torch.randint(*shaping, (len(t[::2]),), generator=generator)
        dropped = torch.rand(batch, 1, generator=generator) < PROMPT_DROP
        ids = torch.where(dropped, empty, data["ids"][rows])
        value = noise_loss(parts, x0.to(device), noise[1].to(device), t.to(device), ids.to(device), alpha_bar)
        return value, {}

    return loss


def row_shares(ids: torch.Tensor, tokenizer: Any) -> torch.Tensor:
    """Returns the weights `[N]` by which rows are drawn: 3 for captions of one object that isn't small, else 1.

    The shape is clearest in those pictures, and shapes are learnt last.
    """
    lesser = tokenizer.convert_tokens_to_ids([f"{w}</w>" for w in ("small", "left", "right", "above", "below")])
    return 3.0 - 2.0 * torch.isin(ids, torch.tensor(lesser)).any(dim=1)


def noise_loss(
    parts: Any, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor, ids: torch.Tensor, alpha_bar: torch.Tensor
) -> torch.Tensor:
    """Returns the mean over B, C, h, w of ‖ε − ε_θ‖², weighted min(SNR + 1, 5) / SNR and at most 5.

    The weighting is v-prediction's (Salimans & Ho 2022, arXiv 2202.00512), clipped at both ends as in min-SNR (Hang
    et al. 2023, arXiv 2303.09556). The text decides the shape at high noise, where the plain error is smallest:
    unweighted, 2000 steps learnt colours, sizes and places, but no shapes.
    """
    kept = alpha_bar.to(t.device)[t][:, None, None, None]
    x_t = kept.sqrt() * x0 + (1 - kept).sqrt() * eps
    predicted = parts["unet"](x_t, t, parts["text"](ids)[0]).sample
    snr = (kept / (1 - kept)).flatten()
    weight = ((snr + 1).clamp(max=SNR_CAP) / snr).clamp(max=SNR_CAP)
    return (weight * (predicted - eps).square().mean(dim=(1, 2, 3))).mean()


def write_model(out_dir: Path, model: tiny_model.Tiny) -> None:
    """Writes a model in Stable Diffusion's layout, float16 safetensors, and replaces `out_dir` by it whole."""
    from diffusers import StableDiffusionPipeline

    fresh = out_dir.with_name(f".{out_dir.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline = StableDiffusionPipeline(
        vae=_half(model.vae),
        unet=_half(model.unet),
        text_encoder=_half(model.text_encoder),
        tokenizer=model.tokenizer,
        scheduler=model.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(fresh, safe_serialization=True)
    # transformers loads in the stored type, diffusers in float32: float32 for both
    config = fresh / "text_encoder" / "config.json"
    write_text(config, config.read_text().replace('"float16"', '"float32"'))
    bpe = model.tokenizer.backend_tokenizer.model.save(str(fresh / "tokenizer"))
    assert {Path(p).name for p in bpe} == {"vocab.json", "merges.txt"}
    for file in fresh.rglob("*.safetensors"):
        file.chmod(0o644)  # diffusers makes them readable by the owner only; a container's user must read them too
    publish(fresh, out_dir)


def _half(model: Any) -> Any:
    """Returns a float16 copy of a network on the CPU, in contiguous memory order."""
    return deepcopy(model).cpu().to(torch.float16, memory_format=torch.contiguous_format)
