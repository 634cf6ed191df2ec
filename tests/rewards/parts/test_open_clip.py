"""open_clip's checkpoints become CLIPModel's tensors, all of them and no others, at the published size."""

import pytest
import torch

from diffalign.core.errors import UserError
from diffalign.rewards.parts import open_clip as keys
from diffalign.rewards.parts import tensors
from tests.helpers.open_clip import shapes

H14 = {"vision": (1280, 32), "text": (1024, 24), "out": 1024}
L14 = {"vision": (1024, 24), "text": (768, 12), "out": 768}


@pytest.mark.parametrize(
    ("backbone", "sizes", "before", "after"), [("ViT-H/14", H14, 686, 910), ("ViT-L/14", L14, 446, 590)]
)
def test_the_keys_of_the_published_size_are_all_there(backbone: str, sizes: dict, before: int, after: int) -> None:  # type: ignore[type-arg]
    """On the meta device: no tensor is missing, none besides, each of its shape.

    12 tensors a layer and 14 others become 16 a layer and 14: a layer's query, key and value are three matrices and
    three biases instead of one each.
    """
    with torch.device("meta"):
        named = shapes(**sizes, vocabulary=49408, tokens=77, side=224, patch=14)
        state = {name: torch.empty(size) for name, size in named.items()}
        found = keys.converted(state)
    assert (len(state), len(found)) == (before, after)
    tensors.check("here", found, keys.shapes(backbone))
    from transformers import CLIPModel

    with torch.device("meta"):
        model = CLIPModel(keys.config(backbone))
    done = model.load_state_dict(found, strict=False, assign=True)
    assert not done.missing_keys and not done.unexpected_keys


def test_another_kind_of_checkpoint_is_named() -> None:
    """ViT-L's tensors for ViT-H; and keys that no open_clip ViT has."""
    with torch.device("meta"):
        state = {k: torch.empty(s) for k, s in shapes(**L14, vocabulary=49408, tokens=77, side=224, patch=14).items()}
    with pytest.raises(UserError, match=r"expected \[77, 1024\] among 910 tensors .* found \[77, 768\]"):
        tensors.check("here", keys.converted(state), keys.shapes("ViT-H/14"))
    for name in ("visual.head.weight", "transformer.resblocks.0.attn.bias_k", "module.visual.proj"):
        with pytest.raises(UserError, match=f"expected the keys of an open_clip ViT, .* found '{name}'"):
            keys.converted({name: state["visual.proj"]})


def test_what_the_shapes_cant_tell_is_as_published() -> None:
    """OpenAI's activation and LAION's; the heads; a prompt's last token."""
    said = {}
    for backbone in ("ViT-L/14", "ViT-H/14"):
        config = keys.config(backbone)
        towers = (config.text_config, config.vision_config)
        said[backbone] = [(t.hidden_act, t.num_attention_heads, t.layer_norm_eps) for t in towers]
        assert (config.text_config.bos_token_id, config.text_config.eos_token_id) == (49406, 49407)
    assert said == {
        "ViT-L/14": [("quick_gelu", 12, 1e-5), ("quick_gelu", 16, 1e-5)],
        "ViT-H/14": [("gelu", 16, 1e-5), ("gelu", 16, 1e-5)],
    }
