"""DOODL: optimises the initial noise by a reward's gradient through the whole chain (Wallace et al. 2023).

arXiv 2303.13703; the update is that of the code published with it. Networks are asked again in the backward pass
instead of keeping what they computed, so that the memory is that of one step; `coupled` is the paper's own way to the
same end.
Shapes: B images, C latent channels, h w latent height and width.
"""

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diffalign.diffusion import coupled as edict
from diffalign.diffusion.coupled import Pair
from diffalign.diffusion.sampling import Output, StepNoise
from diffalign.generation.pipeline import Chain
from diffalign.generation.rules.rule import Found, Looked, Score, Starts, begun, scored, unseen


@dataclass(frozen=True)
class Optimise:
    """Moves the noise x along the gradient g of the reward, `iterations` times; settings as in params.

    b = momentum b + clip(lr g), x = x + b + noise * (unit noise), scaled back to the norm that x began with.
    """

    iterations: int
    lr: float
    momentum: float
    clip: float
    noise: float
    keep: Literal["best", "last"]
    coupled: float | None

    @property
    def looks(self) -> int:
        """Returns the iterations, and one for the last image."""
        return self.iterations + 1

    def __call__(self, chain: Chain, starts: Starts, score: Score, looked: Looked = unseen) -> Found:
        """Makes the images; of one that can't be scored, or has no finite gradient, the noise stays as it is."""
        x, found = starts.noise(), None
        norm, buffer = norms(x), torch.zeros_like(x)
        for iteration in range(self.iterations):
            pixels, scores, gradient = self.ascent(chain, starts, score, x)
            found = begun(pixels, scores) if found is None else self.kept(found, iteration, pixels, scores)
            known = gradient.flatten(1).isfinite().all(dim=1) & ~scores.isnan()
            moved = self.momentum * buffer + (self.lr * gradient).clamp(-self.clip, self.clip)
            rows = known.view(-1, 1, 1, 1)
            buffer = torch.where(rows, moved, buffer)
            to = x + buffer + (self.noise * starts.perturbation(iteration) if self.noise else 0)
            x = torch.where(rows, to * (norm / norms(to)), x)
            looked()
        assert found is not None
        with torch.no_grad():
            pixels, scores = self.look(chain, starts, score, x)
        looked()
        return self.kept(found, self.iterations, pixels, scores)

    def kept(self, found: Found, iteration: int, pixels: Tensor, scores: Tensor) -> Found:
        """Returns what was found so far with an iteration's images, which count if they are better, or the last."""
        if self.keep == "best":
            found.improve(iteration, pixels, scores)
        else:
            found.take(torch.ones_like(scores, dtype=torch.bool), iteration, pixels, scores)
        return found

    def look(self, chain: Chain, starts: Starts, score: Score, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the pictures of noise x, and their scores [B]."""
        if self.coupled is None:
            pixels = chain.pictures(x, starts.added())
        else:
            plan = chain.how.sampler.plan(chain.process, chain.how.steps)
            pixels = chain.finished(edict.sample(chain.output, plan, x, self.coupled).x)
        return pixels, scored(score, pixels, starts.prompts)

    def ascent(self, chain: Chain, starts: Starts, score: Score, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the pictures of noise x, their scores [B], and the scores' gradient with respect to x."""
        if self.coupled is None:
            return plain_ascent(chain, starts, score, x, starts.added())
        return coupled_ascent(chain, starts, score, x, self.coupled)


def plain_ascent(
    chain: Chain, starts: Starts, score: Score, x: Tensor, added: StepNoise
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns pictures, scores [B] and the gradient [B, C, h, w] by the noise, through any sampler."""
    with torch.enable_grad():
        start = x.detach().requires_grad_()
        pixels = replace(chain, output=again(chain.output)).pictures(start, added)
        scores = scored(score, pixels, starts.prompts)
        (gradient,) = torch.autograd.grad(total(scores), start)
    return pixels.detach(), scores.detach(), gradient


def coupled_ascent(chain: Chain, starts: Starts, score: Score, x: Tensor, p: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns pictures, scores [B] and the gradient by the noise of the mean of both coupled latents' scores.

    The pictures are the first latents', the scores of the pictures.
    """
    plan = chain.how.sampler.plan(chain.process, chain.how.steps)
    with torch.no_grad():
        pair = edict.sample(chain.output, plan, x, p)
    looks = [of_latents(chain, starts, score, x0) for x0 in pair]
    gradients = Pair(*(gradient / 2 for _, _, gradient in looks))
    _, gradient = edict.noise_gradient(chain.output, plan, pair, gradients, p)
    pixels, scores, _ = looks[0]
    return pixels, scores, gradient


def of_latents(chain: Chain, starts: Starts, score: Score, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the pictures of clean latents, their scores [B], and the scores' gradient with respect to the latents."""
    with torch.enable_grad():
        leaf = x0.detach().requires_grad_()
        pixels = chain.finished(leaf)
        scores = scored(score, pixels, starts.prompts)
        (gradient,) = torch.autograd.grad(total(scores), leaf)
    return pixels.detach(), scores.detach(), gradient


def total(scores: Tensor) -> Tensor:
    """Returns the sum of the scores that there are: its gradient by an image is that of the image's own score."""
    return torch.where(scores.isnan(), torch.zeros_like(scores), scores).sum()


def again(output: Output) -> Output:
    """Returns a network that is asked again in the backward pass, instead of keeping what it computed."""
    return lambda x_t, t: cast(Tensor, checkpoint(output, x_t, t, use_reentrant=False))


def norms(x: Tensor) -> Tensor:
    """Returns each row's norm, [B, 1, 1, 1]."""
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


build = Optimise
