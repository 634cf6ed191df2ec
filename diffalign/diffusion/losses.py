"""The losses, as pure functions of per-sample errors.

Shapes: B pairs, C latent channels, h w latent height and width.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Returns each sample's denoising error [B] (Ho et al. 2020, arXiv 2006.11239, eq. 14), in float32 at least.

    The mean (not the sum) of squares over C, h, w; the target is what the process says: noise, v or velocity.
    """
    return (precise(prediction) - precise(target)).square().mean(dim=(1, 2, 3))


def precise(x: Tensor) -> Tensor:
    """Returns x in float32; float64 stays as it is, for gradient checks."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def diffusion_dpo(
    error_w: Tensor,
    error_l: Tensor,
    error_w_ref: Tensor,
    error_l_ref: Tensor,
    beta: float,
    strength: Tensor | None = None,
    link: str = "sigmoid",
) -> tuple[Tensor, Tensor]:
    """Returns Diffusion-DPO's loss and implicit margin, each [B] (Wallace et al. 2023, arXiv 2311.12908, eq. 14).

    All errors are [B] means over C, h, w; beta enters as beta / 2, as in the official code, so the paper's beta for
    sums (S9) is beta / 2 divided by the number of latent elements. `margin` is by how much more the policy improved on
    the winner than on the loser, (E_l - E_l_ref) - (E_w - E_w_ref); the loss is the `link` of beta / 2 * margin,
    -log sigmoid by default. With `strength` s in [0.5, 1], the winner's share of the votes, it is the mean over votes,
    s * link(logit) + (1 - s) * link(-logit); at 1/2, a tie, its slope is 0 at margin 0 and has the margin's sign.
    """
    margin = implicit_margin(error_w, error_l, error_w_ref, error_l_ref)
    loss, logits = LINKS[link], 0.5 * beta * margin
    if strength is None:
        return loss(logits), margin
    return strength * loss(logits) + (1 - strength) * loss(-logits), margin


def conventions(beta: float, elements: int) -> dict[str, float]:
    """Returns a Diffusion-DPO beta in other code's terms, and the paper's learning rate for it.

    `summed`: for errors summed over the C * h * w `elements` of a latent, without a half (the paper's S9);
    `diffusers_sd15` and `diffusers_sdxl`: its two example scripts' --beta_dpo, of which the first takes no half;
    `lr_printed`: the paper's (2000 / beta) * 2.048e-8; `lr_launched`: 1000 times that, as the official launcher's
    --scale_lr makes it.
    """
    printed = 2000 / beta * 2.048e-8
    return {
        "summed": beta / 2 / elements,
        "diffusers_sd15": beta / 2,
        "diffusers_sdxl": beta,
        "lr_printed": printed,
        "lr_launched": 1000 * printed,
    }


TERMS = {
    "summed": "for errors summed over a latent",
    "diffusers_sd15": "as --beta_dpo of diffusers' SD 1.5 script",
    "diffusers_sdxl": "as that of its SDXL script",
    "diffusion_kto": "as --beta_dpo of Diffusion-KTO's code",
}
"""The code or paper whose beta each name in a method's `about` means."""


def beta_text(beta: float, lr: float, found: dict[str, float]) -> str:
    """Returns a line of text: beta in other code's terms, the learning rate beside the paper's rule if there is one."""
    betas = ", ".join(f"{found[name]:.4g} {words}" for name, words in TERMS.items() if name in found)
    if "lr_printed" not in found:
        return f"beta {beta:g} is {betas}"
    rule = f"{found['lr_printed']:.4g} in print, {found['lr_launched']:.4g} as launched"
    return f"beta {beta:g} is {betas}; lr {lr:g} here; the paper's rule for this beta: {rule}"


def hinge(logits: Tensor) -> Tensor:
    """Returns relu(1 - z), flat where a pair is won by 1 (Zhao et al. 2023, SLiC-HF, arXiv 2305.10425).

    That's its calibration loss, max(0, delta - z), with delta = 1 and DPO's logit for the sequences' log ratio.
    """
    return (1 - logits).relu()


def ipo(logits: Tensor) -> Tensor:
    """Returns (z - 1/2)^2 (Azar et al. 2023, arXiv 2310.12036, eq. 17): it pulls the margin to 1 / beta.

    That's the published (m - 1 / (2 b))^2, b = beta / 2, times b^2: the same minimum and direction for every b, at the
    other links' size.
    """
    return (logits - 0.5).square()


LINKS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": lambda z: -logsigmoid(z), "hinge": hinge, "ipo": ipo}
"""From the logit z [B] = beta / 2 * margin to the loss [B]."""


def gradient_weight(logits: Tensor, link: str) -> Tensor:
    """Returns |d link / d logit|, a pair's weight in the gradient: sigmoid(-z), or 1 or 0 for the hinge."""
    z = logits.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(LINKS[link](z).sum(), z)
    return slope.abs()


def loser_scale(residual_w: Tensor, residual_l: Tensor, mu: float) -> Tensor:
    """Returns Diffusion-SDPO's factor [B] in [0, 1] on the loser's gradient (Fu et al. 2025, arXiv 2511.03317).

    No gradient flows through it.

    Residuals are the policy's output minus the target, [B, C, h, w]: the errors' gradients on the outputs, up to one
    factor. At first order and on the outputs, a step along g_w - lambda * g_l lowers the winner's error by
    |g_w|^2 - lambda * <g_w, g_l>; lambda = min(1, (1 - mu) |g_w|^2 / <g_w, g_l>) where the product is positive, else
    1, keeps at least mu |g_w|^2 of it. That's so where the loss falls with the margin: not for IPO or soft labels.
    One factor a pair; the authors' code (AIDC-AI/Diffusion-SDPO, get_adaptive_lose_l_scale) takes one a micro-batch,
    which depends on its size.
    """
    g_w, g_l = precise(residual_w.detach()).flatten(1), precise(residual_l.detach()).flatten(1)
    product, square = (g_w * g_l).sum(dim=1), g_w.square().sum(dim=1)
    opposed = product > 0
    return torch.where(opposed, ((1 - mu) * square / product.where(opposed, torch.ones_like(product))).clamp(max=1), 1)


def with_gradient_scaled(value: Tensor, scale: Tensor) -> Tensor:
    """Returns the value unchanged, with its gradient multiplied by `scale`."""
    kept = value.detach()
    return kept + scale * (value - kept)


def diffusion_kto(error: Tensor, error_ref: Tensor, desirable: Tensor, beta: float, z: Tensor) -> Tensor:
    """Returns Diffusion-KTO's loss [N] of N unpaired images (Li et al. 2024, arXiv 2404.04465, eq. 8).

    1 - sigmoid(w * beta / 2 * ((E_ref - E) - z)), w = 1 for a `desirable` image, -1 for another one; 1/2 at the
    reference. Errors [N] are means over C, h, w. beta enters as beta / 2, as in `diffusion_dpo`, so that one beta ties
    both to the reference alike; the authors' code (jacklishufan/diffusion-kto, --beta_dpo) takes no half: its 5000 is
    10000 here. `z`, a scalar, is the `reference_point`; no gradient flows through it. Lambda, the images' weights in
    the loss, is the caller's.
    """
    logits = 0.5 * beta * ((error_ref - error) - z.detach())
    return torch.sigmoid(torch.where(desirable, -logits, logits))


def reference_point(improvement: Tensor) -> Tensor:
    """Returns Diffusion-KTO's z: the mean of E_ref - E over the global batch (a scalar), at least 0.

    beta times it is the paper's Q_ref, an estimate of the policy's KL divergence from the reference. The paper takes
    the mean over unrelated images and prompts; this is the authors' default (--bce_offset none), over the very batch.
    """
    return improvement.detach().clamp(min=0)


def mapo(error_w: Tensor, error_l: Tensor, beta: float, T: int, strength: Tensor | None = None) -> Tensor:
    """Returns MaPO's loss [B], which has no reference (Hong et al. 2024, arXiv 2406.06424 v2, eq. 9, 10, as coded).

    E_w - beta * log sigmoid(T * (phi(E_w) - phi(E_l))). phi(E) = E / 2 / (exp(E / 2) - 1) falls from 1 at E = 0; errors
    [B] are means over C, h, w; T is the number of timesteps; beta (0.1 as published) weighs the preference against
    fine-tuning on the winner. With `strength` s it is the mean over votes, of which 1 - s are for the loser.
    """
    logits = T * (odds(error_w) - odds(error_l))
    won = error_w - beta * logsigmoid(logits)
    if strength is None:
        return won
    return strength * won + (1 - strength) * (error_l - beta * logsigmoid(-logits))


def odds(error: Tensor) -> Tensor:
    """Returns MaPO's link phi(E) = x / (exp(x) - 1), x = E / 2, [B], with the 1/2 of its code (eq. 11 has a beta)."""
    x = 0.5 * error.clamp(min=1e-12)
    return x / torch.expm1(x)


def implicit_margin(error_w: Tensor, error_l: Tensor, error_w_ref: Tensor, error_l_ref: Tensor) -> Tensor:
    """Returns by how much more the policy improved on the winner's error than on the loser's, [B]."""
    return (error_l - error_l_ref) - (error_w - error_w_ref)


def implicit_accuracy(margin: Tensor) -> Tensor:
    """Returns, per pair [B], 1 where the implicit reward ranks the winner above the loser, 1/2 at a tie, else 0."""
    return (margin > 0).float() + 0.5 * (margin == 0).float()


def sft(error_w: Tensor) -> Tensor:
    """Returns the loss [B] of supervised fine-tuning: the winners' denoising error (Ho et al. 2020, eq. 14)."""
    return error_w
