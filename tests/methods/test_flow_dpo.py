"""Flow-DPO: Diffusion-DPO's loss on a flow's velocity, with a beta that doesn't depend on t."""

import math
from dataclasses import replace

import pytest
import torch

from diffalign.data.batches.pair_batches import PairSource, latents
from diffalign.data.shards.reader import prompt_key
from diffalign.diffusion.rng import pair_draw, pair_place
from diffalign.diffusion.timesteps import Times
from diffalign.methods.dpo import DPO
from diffalign.reference.reference import live, pair_errors
from tests.helpers.memory_batches import FLOW, SHAPE, Denoiser, both_ways_round, source


def constant(value: float):  # type: ignore[no-untyped-def]
    """A network that says the same everywhere."""
    return lambda x_t, t, cond: torch.full_like(x_t, value)


def certain(each: PairSource) -> PairSource:
    """The same with hard labels and equal weights."""
    return replace(each, pairs=[replace(pair, strength=1.0, weight=1.0) for pair in each.pairs])


def test_ln2_at_the_reference() -> None:
    policy = Denoiser(0)
    method = DPO(source(times=FLOW), beta=2000)
    batch = next(method.batches(policy, live(policy), 0))
    assert batch.t.is_floating_point() and 0 < batch.t.min() < batch.t.max() < 1
    total, _ = method.loss(policy, live(policy), batch, log=True)
    assert total.item() == pytest.approx(batch.weight.sum().item() * math.log(2), rel=1e-6)


def test_the_published_formula() -> None:
    """Liu et al. 2025, eq. 6, on each slot's own draw; hard labels, equal weights.

    -log sigmoid(-beta_t / 2 * (|v_w - v(x_w)|^2 - |v_w - v_ref(x_w)|^2 - (|v_l - v(x_l)|^2 - |v_l - v_ref(x_l)|^2))),
    v = x_1 - x_0 with the noise x_1, x_t = (1 - t) x_0 + t x_1, beta_t = beta as they train; norms are means here.
    """
    each = certain(source(times=FLOW))
    policy, reference = Denoiser(0), Denoiser(1)
    method = DPO(each, beta=3.0)
    (batch,) = method.batches(policy, live(reference), 0)
    total, _ = method.loss(policy, live(reference), batch, log=False)

    def gained(image: str, noise: torch.Tensor) -> torch.Tensor:
        """|v - v(x)|^2 - |v - v_ref(x)|^2, for the slot at hand."""
        x_0, x_1 = latents(each.images.get(image), noise, flip=False), draw.eps
        inputs = ((1 - draw.t) * x_0 + draw.t * x_1)[None], torch.tensor([draw.t]), {"hidden": hidden[None]}
        return (x_1 - x_0 - policy(*inputs)).square().mean() - (x_1 - x_0 - reference(*inputs)).square().mean()

    expected = torch.zeros(())
    for slot in range(8):
        pair = each.pairs[pair_place(each.seed, 0, slot, 8, 10)[0]]
        draw = pair_draw(each.seed, 0, slot, SHAPE, FLOW, "none", each.prompt_drop)
        hidden = each.prompts.get(prompt_key("" if draw.drop else pair.prompt))["hidden"]
        inside = gained(pair.image_w, draw.posterior_w) - gained(pair.image_l, draw.posterior_l)
        expected = expected - torch.nn.functional.logsigmoid(-3.0 / 2 * inside)
    torch.testing.assert_close(total, expected)
    found, by_hand = (torch.autograd.grad(loss, policy.weight)[0] for loss in (total, expected))
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-4)


def test_swapped_pairs_turn_the_margin_around() -> None:
    """log sigmoid(z) - log sigmoid(-z) = z: a pair of strength s and its swap differ by 2 s - 1 logits."""
    policy, reference = Denoiser(0), live(Denoiser(1))
    totals = []
    for each in both_ways_round():
        method = DPO(replace(each, times=FLOW), beta=2.0)
        (batch,) = method.batches(policy, reference, 0)
        totals.append(method.loss(policy, reference, batch, log=False)[0])
        (w, l), (w_ref, l_ref) = pair_errors(policy, batch), reference(batch)
        z = (l - l_ref) - (w - w_ref)
    # z is the swapped pairs'.
    torch.testing.assert_close(totals[0] - totals[1], (batch.weight * (2 * batch.strength - 1) * z).sum())


@pytest.mark.parametrize("c", [0.05, -0.05])
@pytest.mark.parametrize("shares", [(0.0, 0.1), (0.9, 1.0)])
def test_a_hand_derived_value(c: float, shares: tuple[float, float]) -> None:
    """Winners are 1, losers -1, the policy says c and the reference 0, everywhere; beta is 10.

    The error of c on x0 is mean (c - (eps - x0))^2, and over the reference's it is c^2 - 2c mean(eps) + 2c x0. Between
    winner and loser that differs by 2c - (-2c) = 4c, whatever eps and t. So the loss is -log sigmoid(-10/2 * 4c) =
    log(1 + exp(20c)): at c = 1/20 it is log(1 + e) = 1.3132617, at -1/20 log(1 + 1/e) = 0.3132617.
    With beta (1 - t)^2 it would go to ln 2 where t is near 1.
    """
    moments = {name: torch.full(SHAPE, -60.0) for name in ("logvar", "logvar_flip")}
    images = {
        f"{side}{i}": {"mean": torch.full(SHAPE, x0), "mean_flip": torch.full(SHAPE, x0), **moments}
        for i in range(10)
        for side, x0 in (("w", 1.0), ("l", -1.0))
    }
    policy, reference = constant(c), live(constant(0.0))
    method = DPO(certain(source(images=images, times=Times(FLOW.process, *shares))), beta=10)
    batch = next(method.batches(policy, reference, 0))
    total, _ = method.loss(policy, reference, batch, log=False)
    expected = {0.05: 1.3132617, -0.05: 0.3132617}[c]
    assert total.item() / len(batch) == pytest.approx(expected, rel=1e-5)
