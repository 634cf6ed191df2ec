"""Stable Diffusion 3: rectified flow, an MMDiT over 16-channel latents, two CLIPs and perhaps T5 (Esser et al. 2024).

diffusers and transformers take seconds to import: only loading a network does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from diffalign.core.errors import UserError
from diffalign.core.files import hash_folder
from diffalign.diffusion.process import Cond, Flow
from diffalign.models.encoders import clip_penultimate, decode_latents, encode_pixels
from diffalign.models.loading import T5_FILES, TEXT, check_folder, load_clips, load_part, load_tokenizer, read_config

T5 = ("text_encoder_3", "tokenizer_3")
T5_TOKENS = 256
"""The length that T5's states, or the zeros in their place, have in the stock pipeline."""


class SD3:
    """A model folder's parts. B batch, C latent channels, h = H / 8, w = W / 8, L tokens, D P text widths.

    A condition is `hidden` [B, L, D] of the CLIPs, `pooled` [B, P], and with T5 `t5` [B, 256, J]. Without it the
    transformer gets zeros, as in the stock pipeline; they aren't stored.
    """

    pipeline = "StableDiffusion3Pipeline"
    folders: ClassVar[dict[str, tuple[str, ...]]] = {"vae": ("vae",), "text": TEXT, "denoiser": ("transformer",)}
    denoiser_folder = "transformer"
    # Of both streams' attention, the image's and the text's, as in diffusers' SD3 script.
    lora_targets: tuple[str, ...] = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    )

    def __init__(self, path: Path, parts: tuple[str, ...], device: torch.device, dtype: torch.dtype) -> None:
        check_folder(path, parts, self.folders, "Stable Diffusion 3")
        self.path, self.device, self.dtype = path, device, dtype
        self.process = read_flow(path / "scheduler" / "scheduler_config.json")
        if "vae" in parts:
            from diffusers import AutoencoderKL

            self.vae = load_part(AutoencoderKL, path / "vae", device, dtype)
        if "text" in parts:
            self._load_text()
        if "denoiser" in parts:
            self.load_denoiser(path)

    @property
    def has_t5(self) -> bool:
        """Whether the model folder has the optional third text encoder."""
        return (self.path / T5[0]).is_dir()

    def _load_text(self) -> None:
        from transformers import CLIPTextModelWithProjection, T5EncoderModel, T5TokenizerFast

        self.encoders = load_clips(self.path, (CLIPTextModelWithProjection,) * 2, self.device, self.dtype)
        if self.has_t5:
            self.t5 = load_part(T5EncoderModel, self.path / T5[0], self.device, self.dtype)
            vocabulary = self.t5.config.vocab_size
            self.t5_tokenizer = load_tokenizer(T5TokenizerFast, self.path / T5[1], vocabulary, T5_FILES)

    def load_denoiser(self, folder: Path) -> None:
        """Replaces the denoiser by the one of a model or of a full policy."""
        from diffusers import SD3Transformer2DModel

        transformer = load_part(SD3Transformer2DModel, folder / self.denoiser_folder, self.device, self.dtype)
        self.joint_width = int(transformer.config.joint_attention_dim)
        self.denoiser: nn.Module = transformer

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> dict[str, Tensor]:
        """`mean` and `logvar` [B, C, h, w], float32, of the scaled latents for pixels [B, 3, H, W] in [-1, 1]."""
        return encode_pixels(self.vae, pixels)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Cond:
        """`hidden` [B, L, D], the CLIPs' states before the last layer, `pooled` [B, P] of both, and `t5`; float32.

        The padding is kept: the transformer attends to it, as in training.
        """
        (first, pooled_1), (second, pooled_2) = (clip_penultimate(*encoder, prompts) for encoder in self.encoders)
        cond = {"hidden": torch.cat([first, second], dim=-1), "pooled": torch.cat([pooled_1, pooled_2], dim=-1)}
        if self.has_t5:
            tokens = self.t5_tokenizer(
                list(prompts), padding="max_length", max_length=T5_TOKENS, truncation=True, return_tensors="pt"
            )
            cond["t5"] = self.t5(tokens.input_ids.to(self.device))[0].float()
        return cond

    def unconditional(self) -> Cond:
        """The empty prompt's condition."""
        return self.encode_prompt([""])

    def image_cond(self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Cond:
        """Nothing: the network isn't told of sizes."""
        return {}

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The transformer's velocity [B, C, h, w] at x_t [B, C, h, w], t [B] in [0, 1]."""
        clip = pad(cond["hidden"], (0, self.joint_width - cond["hidden"].shape[-1]))
        t5 = cond["t5"] if "t5" in cond else clip.new_zeros(len(clip), T5_TOKENS, self.joint_width)
        return self.denoiser(
            hidden_states=x_t.to(self.dtype),
            timestep=t * self.process.T,
            encoder_hidden_states=torch.cat([clip, t5], dim=1).to(self.dtype),
            pooled_projections=cond["pooled"].to(self.dtype),
            return_dict=False,
        )[0]

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels [B, 3, H, W], about [-1, 1] and not clipped, for scaled latents [B, C, h, w]; differentiable."""
        return decode_latents(self.vae, x0)

    def fingerprint(self) -> dict[str, Any]:
        """Checksums of all that an encoding depends on; files' names and contents, not where they lie."""
        folders = ("vae", *TEXT, *(T5 if self.has_t5 else ()))
        return {"family": "sd3", "t5": self.has_t5, **{name: hash_folder(self.path / name) for name in folders}}


def read_flow(path: Path) -> Flow:
    """The process that a FlowMatchEulerDiscreteScheduler's config file describes, where it's SD3's; else UserError."""
    config = read_config(path, "scheduler config")
    others = (
        "use_dynamic_shifting",
        "invert_sigmas",
        "shift_terminal",
        "use_karras_sigmas",
        "use_exponential_sigmas",
        "use_beta_sigmas",
        "stochastic_sampling",
    )
    on = [name for name in others if config.get(name)]
    if on or "shift" not in config:
        raise UserError(
            f"{path}: expected a FlowMatchEulerDiscreteScheduler's shift and nothing else that changes its times, "
            f"got shift {config.get('shift')} and {', '.join(on) or 'nothing else'}"
        )
    return Flow(int(config.get("num_train_timesteps", 1000)), float(config["shift"]))
