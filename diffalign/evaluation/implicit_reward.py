"""The reward that a diffusion policy implies, on latents: how much better it denoises an image than its reference.

r(x0, c) = beta * E_{t, eps}[|target - out_ref|^2 - |target - out|^2] (Wallace et al. 2023, arXiv 2311.12908),
t distributed as the policy's objective has it.
Errors are means over C, h, w; beta > 0 scales all rewards alike and is left out: which image has the higher one, the
accuracy, doesn't depend on it. It isn't an image scorer: a policy judges with what it was trained to lower.

Legend: N pairs, K draws a pair, B pair-draws a forward, C latent channels, h w latent height and width.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.data.batches.pairs import Pair
from diffalign.data.shards.reader import image_cond, prompt_key, stacked
from diffalign.diffusion.losses import errors as denoising_errors
from diffalign.diffusion.process import Denoise
from diffalign.diffusion.reward_draws import reward_draw
from diffalign.diffusion.timesteps import Times

Floats = NDArray[np.float64]


class Store(Protocol):
    """Encoded images or prompts by key; `diffalign.data.shards.reader.Shards` is one."""

    def get(self, key: str) -> dict[str, Tensor]:
        """Returns the tensors of one sample, without a batch dimension."""


@torch.no_grad()
def errors(
    denoise: Denoise,
    pairs: Sequence[Pair],
    images: Store,
    prompts: Store,
    *,
    times: Times,
    draws: int,
    seed: int,
    batch_size: int,
    device: torch.device | str,
    done: Callable[[int], None] = lambda count: None,
) -> Floats:
    """Measures denoising errors [N, K, 2] (winner, loser) of pairs at fixed draws, on the posteriors' means.

    The draws' t are as `times` say; `batch_size` is in images a forward, at least one pair; `done` is told how many
    pair-draws have been finished. Raises UserError where an error isn't finite.
    """
    process = times.process
    result = np.empty((len(pairs) * draws, 2))
    size = max(batch_size // 2, 1)
    for start in range(0, len(result), size):
        slots = [divmod(i, draws) for i in range(start, min(start + size, len(result)))]
        encoded = [images.get(key) for n, _ in slots for key in (pairs[n].image_w, pairs[n].image_l)]
        x0 = torch.stack([sample["mean"] for sample in encoded])
        drawn = [reward_draw(seed, pairs[n].pair_id, k, tuple(x0.shape[1:]), times) for n, k in slots]
        t = torch.tensor([t for t, _ in drawn]).repeat_interleave(2).to(device)
        eps = torch.stack([eps for _, eps in drawn]).repeat_interleave(2, dim=0).to(device)
        rows = [prompts.get(prompt_key(pairs[n].prompt)) for n, _ in slots]
        cond = {name: value.repeat_interleave(2, dim=0).to(device) for name, value in stacked(rows).items()}
        sizes = [image_cond(sample, flip=False) for sample in encoded]
        cond |= {name: value.to(device) for name, value in stacked(sizes).items()}
        x0 = x0.to(device)
        error = denoising_errors(denoise(process.noised(x0, eps, t), t, cond), process.target(x0, eps, t))
        if not torch.isfinite(error).all():
            n = slots[int((~torch.isfinite(error)).nonzero()[0]) // 2][0]
            raise UserError(
                f"implicit reward: expected finite denoising errors, found NaN or infinity for the pair "
                f"{pairs[n].pair_id}. The policy's or the base model's weights, or these latents, aren't sound: bring "
                "or train the model again, or make the shards again (dvc repro --force precompute)"
            )
        result[start : start + len(slots)] = error.double().cpu().numpy().reshape(-1, 2)
        done(len(slots))
    return result.reshape(len(pairs), draws, 2)


def rewards(reference: Floats, policy: Floats) -> Floats:
    """Returns implicit rewards [N, 2] (winner, loser) over beta, from both models' errors [N, K, 2] at equal draws."""
    if reference.shape != policy.shape:
        raise ValueError(f"rewards: expected errors of one shape, got {reference.shape} and {policy.shape}")
    return (reference - policy).mean(axis=1)
