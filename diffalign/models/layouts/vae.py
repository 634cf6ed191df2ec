"""The names of a VAE's tensors in the original layout, in which the decoder's blocks are numbered from the last."""

import re
from dataclasses import dataclass

from diffalign.models.layouts.place import Place, unknown

KIND = {"downsamplers": "downsample", "upsamplers": "upsample"}
RESNET = {"conv_shortcut": "nin_shortcut"}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OLDER = {"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"}
"""As published files have them, which are older than the names above."""
ALONE = re.compile(r"(quant_conv|post_quant_conv|(?:encoder|decoder)\.(?:conv_in|conv_out))\.(\w+)")
NORM = re.compile(r"(encoder|decoder)\.conv_norm_out\.(\w+)")
MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)\.(\w+)")
BLOCK = re.compile(
    r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(\w+)\.(\w+)"
)


@dataclass(frozen=True)
class VAENames:
    """`blocks`: of the encoder, and as many of the decoder."""

    blocks: int

    def __call__(self, name: str) -> Place:
        """Returns the place of a tensor; UserError where there is none."""
        if ALONE.fullmatch(name):
            return Place(name)
        if found := NORM.fullmatch(name):
            return Place(f"{found[1]}.norm_out.{found[2]}")
        if found := MIDDLE.fullmatch(name):
            return middle(name, *found.groups())
        if found := BLOCK.fullmatch(name):
            half, way, block, kind, number, module, leaf = found.groups()
            place = int(block) if way == "down" else self.blocks - 1 - int(block)
            if kind == "resnets":
                return Place(f"{half}.{way}.{place}.block.{number}.{RESNET.get(module, module)}.{leaf}")
            return Place(f"{half}.{way}.{place}.{KIND[kind]}.{module}.{leaf}")
        raise unknown(name, "VAE")


def middle(name: str, half: str, kind: str, number: str, module: str, leaf: str) -> Place:
    """Returns the place of a tensor of the middle block; attention's matrices are convolutions there."""
    if kind == "resnets":
        return Place(f"{half}.mid.block_{int(number) + 1}.{RESNET.get(module, module)}.{leaf}")
    original = (ATTENTION | OLDER).get(module)
    if original is None:
        raise unknown(name, "VAE")
    conv = leaf == "weight" and original != "norm"
    return Place(f"{half}.mid.attn_{int(number) + 1}.{original}.{leaf}", conv=conv)
