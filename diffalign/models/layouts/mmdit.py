"""The names of the modules and tensors of Stable Diffusion 3's transformer in its original layout.

There query, key and value of a stream are one matrix, and the modulations whose halves are scale and shift in
diffusers have shift first.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from diffalign.models.layouts.place import Place, unknown
from diffalign.models.parts.configs.schema import read_json

TOP = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
}
LAST_NORM = "norm_out.linear"
BLOCK = re.compile(r"transformer_blocks\.(\d+)\.(.+)")
MODULES = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
THIRDS = {
    **{f"attn.to_{part}": ("x_block.attn.qkv", i) for i, part in enumerate("qkv")},
    **{f"attn.add_{part}_proj": ("context_block.attn.qkv", i) for i, part in enumerate("qkv")},
    **{f"attn2.to_{part}": ("x_block.attn2.qkv", i) for i, part in enumerate("qkv")},
}


@dataclass(frozen=True)
class MMDiTNames:
    """`layers`: how many blocks; the last one's text stream ends in the attention, and its modulation is shorter."""

    layers: int

    def __call__(self, name: str) -> Place:
        """Returns the place of a module or tensor; UserError where there is none."""
        for ours, original in TOP.items():
            if name == ours or name.startswith(f"{ours}."):
                return Place(original + name.removeprefix(ours))
        if name == LAST_NORM or name.startswith(f"{LAST_NORM}."):
            return Place("final_layer.adaLN_modulation.1" + name.removeprefix(LAST_NORM), swapped=True)
        if found := BLOCK.fullmatch(name):
            return self.of_block(name, int(found[1]), found[2])
        raise unknown(name, "transformer")

    def of_block(self, name: str, number: int, inside: str) -> Place:
        """Returns the place of what lies `inside` of a block."""
        module, leaf = inside, ""
        if inside.endswith((".weight", ".bias")):
            module, dot, last = inside.rpartition(".")
            leaf = dot + last
        stem = f"joint_blocks.{number}"
        if module in THIRDS:
            original, third = THIRDS[module]
            return Place(f"{stem}.{original}{leaf}", third=third)
        if module not in MODULES:
            raise unknown(name, "transformer")
        swapped = module == "norm1_context.linear" and number == self.layers - 1
        return Place(f"{stem}.{MODULES[module]}{leaf}", swapped=swapped)


def names(config: Path) -> MMDiTNames:
    """Returns the names for a transformer's config file."""
    return MMDiTNames(int(read_json(config)["num_layers"]))
