"""Builds the embedded models: `assets/tiny-sd`, a Stable Diffusion in miniature, and two more for comparisons.

First a VAE is trained (64 px, f = 8, 16 channels), then a UNet and a CLIP text encoder together on cached latents of
good drawings. That is the *stronger* model. The *base* is it after a brief training on careless drawings (`CARELESS`),
so that alignment has flaws to mend that a person sees; the *weaker* one is an early checkpoint, made careless likewise.
Legend: `B` images, `N` training images, `h w` latent pixels (8), `C` latent channels (16), `L` tokens, `D` width.
"""

import os
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save

from diffalign.core.files import lock, work_folder, write_bytes, write_text
from diffalign.core.progress import Progress
from diffalign.core.publishing import publish
from diffalign.shapes.build import tiny_model
from diffalign.shapes.build.fit import Loss, State, fit
from diffalign.shapes.scenes import CARELESS, GOOD, Flaws, caption, flawed_layout, render, sample_scene

KL_WEIGHT = 1e-3
PROMPT_DROP = 0.1
SNR_CAP = 5.0
SHAPING = (300, 900)  # half of the timesteps are drawn here: shapes are clear below, and lost in noise above
SEEN = Flaws(often=0.5, shift=9, fade=(0.35, 0.75), specks=8, missing=0.35)  # in half of the pictures for the VAE
EARLY = 0.12  # share of the UNet's training after which the weaker model is taken


def run(
    out_dir: Path = Path("assets/tiny-sd"),
    others: Path = Path("models/shapes"),
    seed: int = 0,
    vae_steps: int = 1600,
    max_steps: int = 4500,
    spoil_steps: int = 800,
    images: int = 40_000,
    device: str | None = None,
) -> None:
    """Builds the base in `out_dir`, the others in `others`/weaker and stronger, each replaced whole.

    A killed run goes on. It took 95 minutes on half of a CPU core that multiplies bfloat16; not run on a GPU. The
    committed models were made by these steps in several sittings, so that another run makes models like them.
    """
    torch.set_flush_denormal(True)  # AdamW's second moments of unused tokens decay to denormals, which are slow
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    steps = {"vae": vae_steps, "unet": max_steps, "spoil": spoil_steps}
    work = work_folder("pretrain", {"seed": seed, "steps": steps, "images": images, "device": chosen.type}, [])
    with lock(work):
        vae = train_vae(work, seed, vae_steps, chosen)
        data = latents(work / "good.safetensors", vae, seed, images, chosen)
        set_scale(vae, data)
        parts = train_unet(work, vae, data, seed, max_steps, chosen)
        write_model(others / "stronger", assembled(vae, parts))
        careless = latents(work / "careless.safetensors", vae, seed + 5, images // 5, chosen, CARELESS)
        write_model(out_dir, spoil(work / "base.safetensors", vae, parts, careless, seed, spoil_steps, chosen))
        parts.load_state_dict(load_file(work / "early.safetensors"))
        weaker = spoil(work / "weaker.safetensors", vae, parts, careless, seed + 1, spoil_steps // 2, chosen)
        write_model(others / "weaker", weaker)
        shutil.rmtree(work)


def world_batch(seed: int, index: int, count: int, flaws: Flaws) -> tuple[torch.Tensor, list[str]]:
    """Returns training pictures `index` to `index + count`, float32 `[B, 3, 64, 64]` in [-1, 1], and their captions.

    Each depends on (seed, its index) only.
    """
    pictures, captions = [], []
    for i in range(index, index + count):
        rng = np.random.default_rng((seed, i))
        scene = sample_scene(rng)
        pictures.append(render(scene, layout=flawed_layout(scene, rng, flaws)))
        captions.append(caption(scene))
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return pixels.float() / 127.5 - 1, captions


def train_vae(work: Path, seed: int, steps: int, device: torch.device, batch: int = 32) -> Any:
    """Trains the VAE, resuming from `work`; returns it with its averaged weights, in evaluation mode."""
    torch.manual_seed(seed)
    vae = tiny_model.new_vae().to(device, memory_format=torch.channels_last)

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        halves = [world_batch(seed + 1, step * batch, batch // 2, flaws)[0] for flaws in (GOOD, SEEN)]
        pixels = torch.cat(halves).to(device, memory_format=torch.channels_last)
        return vae_loss(vae, pixels, torch.Generator().manual_seed(seed * 1_000_003 + step))

    ema = fit("vae", vae, loss, steps=steps, checkpoint=work / "vae.safetensors", ema_decay=0.995)
    vae.load_state_dict(ema)
    return vae.eval().requires_grad_(False)


def vae_loss(vae: Any, pixels: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
    """Returns the VAE's loss and logs: L1 + 2 squared error + 0.5 L1 of edges + a tiny KL, each a mean.

    Edges are the differences between neighbouring pixels.
    """
    with torch.autocast(pixels.device.type, torch.bfloat16):
        moments = vae.encode(pixels).latent_dist
        noise = torch.randn(moments.mean.shape, generator=generator).to(pixels.device)
        error = vae.decode(moments.mean + moments.std * noise).sample.float() - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    kl = 0.5 * (moments.mean.square() + moments.var - 1 - moments.logvar).float().mean()
    squared = error.square().mean()
    loss = error.abs().mean() + 2 * squared + 0.5 * edges + KL_WEIGHT * kl
    return loss, {"psnr": psnr(squared.item()), "kl": kl.item(), "std": moments.mean.std().item()}


def psnr(mean_squared_error: float) -> float:
    """Returns the PSNR in decibels of a mean squared error of pixels in [-1, 1]."""
    return float(10 * np.log10(4 / max(mean_squared_error, 1e-12)))


@torch.no_grad()
def latents(
    path: Path, vae: Any, seed: int, images: int, device: torch.device, flaws: Flaws = GOOD, batch: int = 64
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
    unet, text = tiny_model.new_unet(), tiny_model.new_text_encoder(tiny_model.new_tokenizer())
    parts = torch.nn.ModuleDict({"unet": unet, "text": text}).to(device)
    loss = denoising(parts, vae, data, seed * 1_000_003, device, SHAPING)
    keep = {max(1, round(EARLY * steps)): work / "early.safetensors"}
    ema = fit("unet", parts, loss, steps=steps, checkpoint=work / "unet.safetensors", ema_decay=0.998, keep=keep)
    parts.load_state_dict(ema)
    return parts


def spoil(
    checkpoint: Path, vae: Any, parts: torch.nn.ModuleDict, data: State, seed: int, steps: int, device: torch.device
) -> tiny_model.Tiny:
    """Trains a UNet briefly on careless drawings, so that it draws known shapes carelessly; returns the model."""
    spoilt = deepcopy(parts)
    spoilt["text"].requires_grad_(False)
    loss = denoising(spoilt, vae, data, seed * 1_000_003 + 10_000_019, device, None)
    ema = fit("spoil", spoilt, loss, steps=steps, checkpoint=checkpoint, muon_lr=8e-3, adam_lr=1e-3, ema_decay=0.99)
    spoilt.load_state_dict(ema)
    return assembled(vae, spoilt)


def assembled(vae: Any, parts: torch.nn.ModuleDict) -> tiny_model.Tiny:
    """Returns the whole model of a VAE, a UNet and a text encoder."""
    return tiny_model.Tiny(vae, parts["unet"], parts["text"], tiny_model.new_tokenizer(), tiny_model.new_scheduler())


def denoising(
    parts: torch.nn.ModuleDict,
    vae: Any,
    data: State,
    seed: int,
    device: torch.device,
    shaping: tuple[int, int] | None,
    batch: int = 96,
) -> Loss:
    """Returns a loss function of the step, on random rows, half of their timesteps from `shaping`."""
    unet: Any = parts["unet"]
    unet.set_attn_processor(AttnProcessor())  # in bfloat16 on a CPU, PyTorch's fused attention is slow backward
    empty = tiny_model.new_tokenizer()([""], padding="max_length", return_tensors="pt").input_ids
    scale, alpha_bar = vae.config.scaling_factor, tiny_model.new_scheduler().alphas_cumprod

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(seed + step)
        rows = torch.randint(len(data["ids"]), (batch,), generator=generator)
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
    with torch.autocast(x_t.device.type, torch.bfloat16):
        predicted = parts["unet"](x_t, t, parts["text"](ids)[0]).sample.float()
    snr = (kept / (1 - kept)).flatten()
    weight = ((snr + 1).clamp(max=SNR_CAP) / snr).clamp(max=SNR_CAP)
    return (weight * (predicted - eps).square().mean(dim=(1, 2, 3))).mean()


def write_model(out_dir: Path, model: tiny_model.Tiny) -> None:
    """Writes a model in Stable Diffusion's layout, float16 safetensors, and replaces `out_dir` by it whole."""
    from diffusers import StableDiffusionPipeline

    out_dir.parent.mkdir(parents=True, exist_ok=True)
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
