"""Tiny random-weight models of the other families in diffusers' layout, for tests; made once a session and copied.

Their parts are of the real classes, their text encoders of different widths, so that a mix-up shows.
"""

import shutil
from functools import cache
from pathlib import Path
from typing import Any

from tests.helpers.tiny import make_clip, make_scheduler, make_tokenizer, make_vae, saved

FIRST, SECOND, POOLED = 16, 24, 32
"""Widths of the first and the second text encoder, and of the second's projection."""
JOINT = 64
"""Width of what SD3's transformer attends to: more than both CLIPs', so that they are padded."""


def make_sdxl(folder: Path, zeros_for_empty: bool = True) -> Path:
    """Writes a Stable Diffusion XL for images of 64 pixels and returns its folder."""
    return Path(shutil.copytree(_sdxl(zeros_for_empty), folder, dirs_exist_ok=True))


def make_sd3(folder: Path, t5: bool = False) -> Path:
    """Writes a Stable Diffusion 3 for images of 64 pixels and returns its folder."""
    return Path(shutil.copytree(_sd3(t5), folder, dirs_exist_ok=True))


@cache
def _sdxl(zeros_for_empty: bool) -> Path:
    import torch
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = StableDiffusionXLPipeline(
            vae=make_vae(sample_size=64, latent_channels=4, scaling_factor=0.13025),
            text_encoder=make_clip(CLIPTextModel, FIRST, FIRST, layers=3),
            text_encoder_2=make_clip(CLIPTextModelWithProjection, SECOND, POOLED, layers=3),
            tokenizer=make_tokenizer(),
            tokenizer_2=make_tokenizer(),
            unet=UNet2DConditionModel(
                sample_size=8,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                block_out_channels=(16, 32),
                layers_per_block=1,
                cross_attention_dim=FIRST + SECOND,
                attention_head_dim=(2, 4),
                transformer_layers_per_block=(1, 2),
                norm_num_groups=8,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + POOLED,
            ),
            scheduler=make_scheduler(),
            force_zeros_for_empty_prompt=zeros_for_empty,
            add_watermarker=False,
        )
    return saved(pipeline)


@cache
def _sd3(t5: bool) -> Path:
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = _t5() if t5 else {"text_encoder_3": None, "tokenizer_3": None}
        pipeline = StableDiffusion3Pipeline(
            vae=make_vae(
                sample_size=64,
                latent_channels=16,
                scaling_factor=1.5305,
                shift_factor=0.0609,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            text_encoder=make_clip(CLIPTextModelWithProjection, FIRST, FIRST, layers=3),
            text_encoder_2=make_clip(CLIPTextModelWithProjection, SECOND, POOLED, layers=3),
            tokenizer=make_tokenizer(),
            tokenizer_2=make_tokenizer(),
            transformer=SD3Transformer2DModel(
                sample_size=8,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=4,
                joint_attention_dim=JOINT,
                caption_projection_dim=32,
                pooled_projection_dim=FIRST + POOLED,
                pos_embed_max_size=8,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            **parts,
        )
    return saved(pipeline)


def _t5() -> dict[str, Any]:
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    special = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>", "▁")]
    letters = [(letter, -1.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = T5TokenizerFast(vocab=[*special, *letters], extra_ids=0)
    config = T5Config(vocab_size=len(tokenizer), d_model=JOINT, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return {"text_encoder_3": T5EncoderModel(config), "tokenizer_3": tokenizer}
