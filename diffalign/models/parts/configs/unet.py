"""The config of diffusers' UNet2DConditionModel, the denoiser of Stable Diffusion 1.x, 2.x and XL."""

from typing import Annotated, Any, Literal

from pydantic import Field

from diffalign.models.parts.configs.schema import Activation, Blocks, DiffusersConfig, Epsilon, Few, Share, Size

Each = Size | Annotated[list[Size], Field(min_length=1, max_length=16)]
"""One number, or one for each block."""
Nested = Few | Annotated[list[Few | list[Few]], Field(min_length=1, max_length=16)]


class UNet(DiffusersConfig):
    """unet/config.json. What must be null or false needs inputs besides the image, the time and the prompt."""

    class_name: Literal["UNet2DConditionModel"] = Field(alias="_class_name")
    sample_size: Size | Annotated[list[Size], Field(min_length=2, max_length=2)] | None = None
    """The size that pipelines draw by default; the network takes any."""
    in_channels: Size
    out_channels: Size = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: Annotated[float, Field(ge=0, le=1)] = 0
    down_block_types: list[Literal["CrossAttnDownBlock2D", "DownBlock2D"]]
    mid_block_type: Literal["UNetMidBlock2DCrossAttn"] | None = "UNetMidBlock2DCrossAttn"
    up_block_types: list[Literal["CrossAttnUpBlock2D", "UpBlock2D"]]
    only_cross_attention: bool | list[bool] = False
    block_out_channels: Blocks
    layers_per_block: Few | Annotated[list[Few], Field(min_length=1, max_length=16)] = 2
    downsample_padding: Annotated[int, Field(ge=0, le=1)] = 1
    mid_block_scale_factor: Annotated[float, Field(gt=0, le=100)] = 1
    dropout: Share = 0.0
    act_fn: Activation = "silu"
    norm_num_groups: Size | None = 32
    norm_eps: Epsilon = 1e-5
    cross_attention_dim: Each
    transformer_layers_per_block: Nested = 1
    reverse_transformer_layers_per_block: Annotated[list[Few | list[Few]], Field(max_length=16)] | None = None
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    attention_head_dim: Each = 8
    """The number of heads, in spite of its name; one number, or one for each block."""
    num_attention_heads: None = None
    dual_cross_attention: Literal[False] = False
    use_linear_projection: bool = False
    class_embed_type: None = None
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: Size | None = None
    num_class_embeds: None = None
    upcast_attention: bool | None = False
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    resnet_skip_time_act: bool = False
    resnet_out_scale_factor: Annotated[float, Field(gt=0, le=100)] = 1.0
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: Size | None = None
    time_embedding_act_fn: Activation | None = None
    timestep_post_act: Activation | None = None
    time_cond_proj_dim: None = None
    """The width of an embedding of the guidance scale, which distilled models (LCM) are told."""
    conv_in_kernel: Literal[1, 3, 5, 7] = 3
    conv_out_kernel: Literal[1, 3, 5, 7] = 3
    projection_class_embeddings_input_dim: Size | None = None
    attention_type: Literal["default"] = "default"
    class_embeddings_concat: Literal[False] = False
    mid_block_only_cross_attention: bool | None = None
    cross_attention_norm: None = None
    addition_embed_type_num_heads: Few = 64

    @property
    def text_width(self) -> int:
        """Returns the width D of the prompt's states."""
        return self.cross_attention_dim if isinstance(self.cross_attention_dim, int) else self.cross_attention_dim[0]

    def problems(self) -> list[str]:
        """Lists numbers that need each other and don't fit: of blocks, heads, groups, input and output channels."""
        blocks = len(self.block_out_channels)
        found = [
            f"{key}: expected {blocks}, one for each of block_out_channels, found {len(value)}"
            for key in PER_BLOCK
            if isinstance(value := getattr(self, key), list) and len(value) != blocks
        ]
        if isinstance(self.cross_attention_dim, list) and len(set(self.cross_attention_dim)) > 1:
            found.append(f"cross_attention_dim: expected one width for all blocks, found {self.cross_attention_dim}")
        if self.norm_num_groups and any(width % self.norm_num_groups for width in self.block_out_channels):
            found.append(
                f"norm_num_groups: expected a divisor of block_out_channels {self.block_out_channels}, "
                f"found {self.norm_num_groups}"
            )
        return found + self._attention_problems()

    def _attention_problems(self) -> list[str]:
        heads = per_block(self.attention_head_dim, len(self.block_out_channels))
        wrong = [
            (width, number)
            for width, number, kind in zip(self.block_out_channels, heads, self.down_block_types, strict=False)
            if kind.startswith("CrossAttn") and width % number
        ]
        found = [
            f"attention_head_dim: expected a number of heads that divides {width} channels, found {number}"
            for width, number in wrong
        ]
        if self.reverse_transformer_layers_per_block is None and nested(self.transformer_layers_per_block):
            found.append(
                "reverse_transformer_layers_per_block: expected a list where transformer_layers_per_block "
                f"{self.transformer_layers_per_block} has lists in it, found null"
            )
        found += [
            f"{key}: expected a value beside addition_embed_type {self.addition_embed_type}, found null"
            for key in ("addition_time_embed_dim", "projection_class_embeddings_input_dim")
            if self.addition_embed_type and getattr(self, key) is None
        ]
        return found


PER_BLOCK = (
    *("down_block_types", "up_block_types", "only_cross_attention", "layers_per_block", "cross_attention_dim"),
    *("transformer_layers_per_block", "reverse_transformer_layers_per_block", "attention_head_dim"),
)


def per_block(value: Any, blocks: int) -> list[Any]:
    """Returns one value for each block."""
    return value if isinstance(value, list) else [value] * blocks


def nested(value: Any) -> bool:
    """Tells whether a list has lists in it."""
    return isinstance(value, list) and any(isinstance(each, list) for each in value)
