"""PickScore (Kirstain et al. 2023, arXiv 2305.01569): a CLIP ViT-H/14, fine-tuned on people's choices in Pick-a-Pic.

Score: exp(logit_scale) times the cosine of image and prompt, about 18 to 24 for real models; a softmax over two images'
scores is the probability that the first is preferred. Preprocessing: CLIP's, short side to 224 bicubic, the middle cut
out. Template: the prompt as it is, cut to 77 tokens. Licence: the code's is MIT, the weights state none.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diffalign.rewards.parts import cosine, folders
from diffalign.rewards.parts.folders import Published
from diffalign.rewards.parts.pixels import clip_square
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.pickscore import Settings

SOURCES = (
    Published("yuvalkirstain/PickScore_v1", ("config.json", folders.WEIGHTS)),
    Published("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", folders.TOKENIZER),
)
TRAINED_ON = (
    "Pick-a-Pic v1's training comparisons, from LAION's CLIP ViT-H/14. In-family: a policy that learnt from Pick-a-Pic "
    "v1 or v2 is judged by the same people's taste."
)


def check(settings: "Settings") -> None:
    """Raises UserError unless its files are there; they aren't read."""
    folders.present("pickscore", Path(settings.path), SOURCES)


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Loads PickScore from its folder; UserError where a file is missing, damaged, or another model's."""
    folders.check("pickscore", settings, SOURCES)
    return cosine.load(
        "pickscore",
        settings,
        device,
        backbone="ViT-H/14",
        square=clip_square,
        trained_on=TRAINED_ON,
        families=("pickapic", "clip_h14"),
        learnt_factor=True,
    )
