"""The config of diffusers' SD3Transformer2DModel, the denoiser of Stable Diffusion 3."""

from typing import Annotated, Literal

from pydantic import Field

from diffalign.models.configs.schema import DiffusersConfig, Few, Size


class MMDiT(DiffusersConfig):
    """transformer/config.json."""

    class_name: Literal["SD3Transformer2DModel"] = Field(alias="_class_name")
    sample_size: Size = 128
    """The size h = w that it was made for; its table of positions is cut from the middle for any other."""
    patch_size: Annotated[int, Field(ge=1, le=64)] = 2
    in_channels: Size
    num_layers: Few = 18
    attention_head_dim: Size = 64
    num_attention_heads: Few = 18
    joint_attention_dim: Size
    caption_projection_dim: Size = 1152
    pooled_projection_dim: Size
    out_channels: Size | None = 16
    pos_embed_max_size: Size = 96
    dual_attention_layers: tuple[()] | list[Annotated[int, Field(ge=0, le=255)]] = ()
    qk_norm: Literal["rms_norm"] | None = None

    def problems(self) -> list[str]:
        """Lists widths that must be equal and aren't."""
        found = []
        width = self.num_attention_heads * self.attention_head_dim
        if self.caption_projection_dim != width:
            found.append(
                f"caption_projection_dim: expected num_attention_heads * attention_head_dim = {width}, "
                f"found {self.caption_projection_dim}"
            )
        if self.out_channels not in (None, self.in_channels):
            found.append(f"out_channels: expected in_channels {self.in_channels}, found {self.out_channels}")
        if width > MOST_WIDTH:
            found.append(f"num_attention_heads: expected a width of {MOST_WIDTH} at most, found {width}")
        if any(layer >= self.num_layers for layer in self.dual_attention_layers):
            found.append(
                f"dual_attention_layers: expected layers below num_layers {self.num_layers}, "
                f"found {self.dual_attention_layers}"
            )
        return found


MOST_WIDTH = 65536
