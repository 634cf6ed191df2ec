"""The names of a text encoder's tensors: as transformers has them, or as OpenCLIP, which trained SDXL's second one."""

import re

from diffalign.models.layouts.place import Place, unknown

TOP = {
    "text_model.embeddings.token_embedding.weight": Place("token_embedding.weight"),
    "text_model.embeddings.position_embedding.weight": Place("positional_embedding"),
    "text_model.final_layer_norm.weight": Place("ln_final.weight"),
    "text_model.final_layer_norm.bias": Place("ln_final.bias"),
    "text_projection.weight": Place("text_projection", turned=True),
}
LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
MODULES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def whole(name: str) -> str:
    """Returns a CLIP's tensor's name with `text_model.` in front, which transformers 5 leaves out."""
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def transformers(name: str) -> Place:
    """Returns the place of a CLIP's tensor where the original layout has transformers' names."""
    return Place(whole(name))


def t5(name: str) -> Place:
    """Returns the place of T5's tensor, whose name stays."""
    return Place(name)


def open_clip(name: str) -> Place:
    """Returns the place of a CLIP's tensor in OpenCLIP's names; UserError where there is none."""
    if place := TOP.get(whole(name)):
        return place
    found = LAYER.fullmatch(whole(name))
    if found and found[2] in ATTENTION:
        number, module, leaf = found.groups()
        return Place(f"transformer.resblocks.{number}.attn.in_proj_{leaf}", third=ATTENTION.index(module))
    if found and found[2] in MODULES:
        return Place(f"transformer.resblocks.{found[1]}.{MODULES[found[2]]}.{found[3]}")
    raise unknown(name, "text encoder")
