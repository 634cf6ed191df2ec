"""The config of diffusers' AutoencoderKL, the VAE of all families."""

from typing import Annotated, Literal

from pydantic import Field

from diffalign.models.parts.configs.schema import Activation, Blocks, DiffusersConfig, Factor, Few, Size


class Autoencoder(DiffusersConfig):
    """vae/config.json. Latents are (z - shift_factor) * scaling_factor; the image's side is `factor` times theirs."""

    class_name: Literal["AutoencoderKL"] = Field(alias="_class_name")
    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    down_block_types: list[Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]]
    up_block_types: list[Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]]
    block_out_channels: Blocks
    layers_per_block: Few = 1
    act_fn: Activation = "silu"
    latent_channels: Annotated[int, Field(ge=1, le=512)]
    norm_num_groups: Size = 32
    sample_size: Size = 32
    """The size it was made for; only the tiles of a tiled decode follow from it, which aren't used."""
    scaling_factor: Factor = 0.18215
    shift_factor: Annotated[float, Field(ge=-1e4, le=1e4)] | None = None
    latents_mean: None = None
    """Per-channel statistics, with which some pipelines decode otherwise."""
    latents_std: None = None
    force_upcast: bool = True
    """Asks for fp32 where the model runs in fp16; the VAE always runs in fp32 here."""
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @property
    def factor(self) -> int:
        """Pixels a side of a latent's cell."""
        return 2 ** (len(self.block_out_channels) - 1)

    def problems(self) -> list[str]:
        """Lists block lists of other lengths, and channels that don't divide into the groups of the norms."""
        blocks = len(self.block_out_channels)
        found = [
            f"{key}: expected {blocks} as block_out_channels has, found {len(getattr(self, key))}"
            for key in ("down_block_types", "up_block_types")
            if len(getattr(self, key)) != blocks
        ]
        if any(width % self.norm_num_groups for width in self.block_out_channels):
            found.append(
                f"norm_num_groups: expected a divisor of block_out_channels {self.block_out_channels}, "
                f"found {self.norm_num_groups}"
            )
        return found
