"""Batches of random latents in memory, in place of shards, and a little network that uses all of its inputs."""

from dataclasses import replace

import torch

from diffalign.data.batches.image_labels import ImageLabel
from diffalign.data.batches.pair_batches import PairSource
from diffalign.data.batches.pairs import Pair
from diffalign.data.batches.unpaired_batches import UnpairedSource
from diffalign.data.shards.reader import prompt_key
from diffalign.diffusion.process import Diffusion, Flow, scaled_linear
from diffalign.diffusion.timesteps import Times

SHAPE = (4, 4, 4)
FLOW = Times(Flow(1000, 3.0), density="logit_normal")
Rows = dict[str, dict[str, torch.Tensor]]


def source(**changes) -> PairSource:  # type: ignore[no-untyped-def]
    """Ten pairs of random latents in memory, in place of shards; strengths from 0.6 to 1, weights around 1."""
    rng = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    images: Rows = {
        f"{side}{i}": {name: random(*SHAPE) for name in ("mean", "logvar", "mean_flip", "logvar_flip")}
        for i in range(10)
        for side in "wl"
    }
    prompts: Rows = {prompt_key(text): {"hidden": random(3, 2)} for text in ["", *(f"p{i}" for i in range(10))]}
    pairs = [Pair(f"{i}", f"p{i}", f"w{i}", f"l{i}", 0.6 + 0.4 * i / 9, weight=0.55 + 0.1 * i) for i in range(10)]
    values = {
        "pairs": pairs,
        "images": images,
        "prompts": prompts,
        "times": Times(Diffusion(scaled_linear(0.00085, 0.012, 100), "epsilon")),
        "seed": 3,
        "batch_size": 8,
        "micro_batch_size": 8,
        "prompt_drop": 0.5,
        "flip": "none",
        "device": torch.device("cpu"),
    }
    return PairSource(**values | changes)


class Denoiser(torch.nn.Module):
    """A little network that uses all of its inputs."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(4, 4, generator=rng) * 0.3)

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, cond: dict[str, torch.Tensor]) -> torch.Tensor:
        mixed = torch.einsum("bchw,dc->bdhw", x_t, self.weight)
        shift = cond["hidden"].mean(dim=(1, 2)) * self.weight.mean() + t / 1e3
        return mixed + shift.view(-1, 1, 1, 1)


def both_ways_round() -> tuple[PairSource, PairSource]:
    """A source, and the same with winners and losers swapped.

    Posterior noise is drawn by side: without it, the swap is exact.
    """
    quiet = source()
    for moments in quiet.images.values():  # type: ignore[attr-defined]
        moments["logvar"].fill_(-60.0)
    swapped = [replace(p, image_w=p.image_l, image_l=p.image_w) for p in quiet.pairs]
    return quiet, replace(quiet, pairs=swapped)


def unpaired(**changes) -> UnpairedSource:  # type: ignore[no-untyped-def]
    """Ten desirable and seven undesirable images of the pairs that `source` has."""
    values = {name: value for name, value in vars(source()).items() if name in UnpairedSource.__dataclass_fields__}
    liked = [ImageLabel(f"p{i}", f"w{i}", True) for i in range(10)]
    disliked = [ImageLabel(f"p{i}", f"l{i}", False) for i in range(7)]
    return UnpairedSource(**{"desirable": liked, "undesirable": disliked} | values | changes)
