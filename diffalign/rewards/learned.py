"""A reward of one's own: a CLIP that the stage reward@NAME trained on this project's comparisons, as PickScore was.

Score: exp(logit_scale) times the cosine of image and prompt; a softmax over two images' scores is the probability that
the first is preferred. Preprocessing: CLIP's, short side to the network's bicubic, the middle cut out. Template: the
prompt as it is, cut to the tokens that the text tower reads.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diffalign.core.errors import UserError
from diffalign.data.families import OWN
from diffalign.models.parts import weights
from diffalign.rewards.parts import card, cosine, folders
from diffalign.rewards.parts.card import Card
from diffalign.rewards.parts.pixels import clip_square
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.learned import Settings

FILES = ("config.json", folders.WEIGHTS, *folders.TOKENIZER, card.FILE)


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Loads the reward model from its folder; UserError where a file is missing or damaged."""
    folder = Path(settings.path)
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise UserError(
            f"rewards.learned.path: expected a folder with {', '.join(FILES)}; found {folder} without "
            f"{', '.join(missing)}. Train it: `dvc repro reward@{folder.name}`, which needs "
            f"reward_models.{folder.name} in params.yaml."
        )
    weights.verify(folder)
    return cosine.load(
        "learned",
        settings,
        device,
        backbone=None,
        square=clip_square,
        trained_on=trained_on(card.read(folder)),
        families=(OWN,),
        learnt_factor=True,
    )


def trained_on(found: Card) -> str:
    """Says what a reward model learnt from, and with what it's in-family."""
    whose = f" of the raters {', '.join(found.raters)}" if found.raters else ""
    return (
        f"{found.preferences:,} comparisons of this project's train split{whose}, from {found.settings['init']}. "
        "In-family: policies that learnt from the same comparisons, or that are trained with this reward."
    )
