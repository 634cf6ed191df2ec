"""The names of a UNet's modules and tensors in the layout of Stable Diffusion 1, 2 and XL.

There the blocks of the encoder and of the decoder are numbered through: block i with L resnets has the numbers from
i (L + 1) on, one more in the encoder, whose first is the convolution of the latents; a resnet is part 0, the attention
after it part 1.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from diffalign.core.errors import UserError
from diffalign.models.layouts.place import Place, unknown
from diffalign.models.parts.configs.schema import read
from diffalign.models.parts.configs.unet import UNet

TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
BLOCK = re.compile(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class UNetNames:
    """`layers`: resnets in a block of the encoder. `attending`: the decoder's blocks with attention."""

    layers: int
    attending: frozenset[int]

    def __call__(self, name: str) -> Place:
        """Returns the place of a module or tensor; UserError where there is none."""
        for ours, original in TOP.items():
            if name == ours or name.startswith(f"{ours}."):
                return Place(original + name.removeprefix(ours))
        if not (found := BLOCK.fullmatch(name)):
            raise unknown(name, "UNet")
        way, block, kind, number, rest = found.groups()
        if kind == "resnets":
            module, dot, leaf = rest.partition(".")
            if module not in RESNET:
                raise unknown(name, "UNet")
            rest = f"{RESNET[module]}{dot}{leaf}"
        if kind == "downsamplers":
            rest = rest.replace("conv", "op", 1)
        return Place(f"{self.stem(way, int(block or 0), kind, int(number))}.{rest}")

    def stem(self, way: str, block: int, kind: str, number: int) -> str:
        """Returns the name of a resnet, an attention or a change of size."""
        if way == "mid":
            return f"middle_block.{2 * number if kind == 'resnets' else 1}"
        first = block * (self.layers + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + self.layers + 1}.0"
        if kind == "upsamplers":
            return f"output_blocks.{first + self.layers}.{2 if block in self.attending else 1}"
        blocks, offset = ("input_blocks", 1) if way == "down" else ("output_blocks", 0)
        return f"{blocks}.{first + number + offset}.{0 if kind == 'resnets' else 1}"


def names(config: Path) -> UNetNames:
    """Returns the names for a UNet's config file; UserError where its blocks differ in their number of resnets."""
    unet = read(UNet, config)
    layers = unet.layers_per_block
    if isinstance(layers, list) and len(set(layers)) > 1:
        raise UserError(f"{config}: layers_per_block: expected one number for all blocks, found {layers}")
    attending = frozenset(i for i, kind in enumerate(unet.up_block_types) if kind.startswith("CrossAttn"))
    return UNetNames(layers[0] if isinstance(layers, list) else layers, attending)
