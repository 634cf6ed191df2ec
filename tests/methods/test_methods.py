"""Methods on batches: by hand with strengths and weights, ln 2 at the start, float64 gradients.

Neither micro-batches nor processes change the global batch.
"""

import math
from dataclasses import replace

import pytest
import torch

from diffalign.core.errors import UserError
from diffalign.data.batches.pair_batches import PairBatch, PairSource, latents
from diffalign.data.batches.pairs import make_pairs
from diffalign.data.shards.reader import prompt_key
from diffalign.diffusion.rng import pair_draw, pair_place
from diffalign.methods.dpo import DPO
from diffalign.methods.mapo import MaPO
from diffalign.methods.method import load
from diffalign.methods.sft import SFT
from diffalign.reference.reference import Reference, live, pair_errors
from tests.helpers.comparison_rows import one, table
from tests.helpers.memory_batches import FLOW, Denoiser, both_ways_round, source
from tests.helpers.methods import Offers, settings


def gradient(method, sources: list[PairSource]) -> torch.Tensor:  # type: ignore[no-untyped-def]
    policy, reference = Denoiser(0), live(Denoiser(1))
    for each in sources:
        for batch in method(each).batches(policy, reference, 4):
            total, _ = method(each).loss(policy, reference, batch, log=False)
            (total / each.batch_size).backward()
    return policy.weight.grad


VARIANTS = {
    "dpo": lambda s: DPO(s, beta=50.0),
    "hinge": lambda s: DPO(s, beta=50.0, link="hinge"),
    "ipo": lambda s: DPO(s, beta=50.0, link="ipo"),
    "safeguard": lambda s: DPO(s, beta=50.0, safeguard=0.9),
    "mapo": lambda s: MaPO(s, beta=0.1),
    "sft": SFT,
    "flow": lambda s: DPO(replace(s, times=FLOW), beta=50.0),
}


@pytest.mark.parametrize("method", VARIANTS.values(), ids=VARIANTS)
def test_accumulating_is_one_large_batch(method) -> None:  # type: ignore[no-untyped-def]
    whole = gradient(method, [source()])
    close = {"rtol": 1e-5, "atol": 1e-6 * whole.abs().max().item()}  # sums in another order
    torch.testing.assert_close(gradient(method, [source(micro_batch_size=1)]), whole, **close)
    torch.testing.assert_close(gradient(method, [source(micro_batch_size=3)]), whole, **close)
    ranks = [source(rank=rank, world=4, micro_batch_size=2) for rank in range(4)]
    torch.testing.assert_close(gradient(method, ranks), whole, **close)


def cross_entropy(z: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    return s * torch.log1p(torch.exp(-z)) + (1 - s) * torch.log1p(torch.exp(z))


def phi(error: torch.Tensor) -> torch.Tensor:
    """MaPO's, as its authors write it."""
    return 0.5 * error / (torch.exp(0.5 * error) - 1)


BY_HAND = {name: lambda w, l, z, s: cross_entropy(z, s) for name in ("dpo", "safeguard", "flow")} | {
    "hinge": lambda w, l, z, s: s * (1 - z).clamp(min=0) + (1 - s) * (1 + z).clamp(min=0),
    "ipo": lambda w, l, z, s: s * (z - 0.5) ** 2 + (1 - s) * (z + 0.5) ** 2,
    "mapo": lambda w, l, z, s: s * w + (1 - s) * l + 0.1 * cross_entropy(100 * (phi(w) - phi(l)), s),
    "sft": lambda w, l, z, s: w,
}
"""From errors, the logit z = 25 * margin and the strength, all [B], to the losses of VARIANTS."""


def exact(method) -> tuple[Denoiser, Reference, PairBatch]:  # type: ignore[no-untyped-def]
    """A policy, its reference and a batch of the method's own in float64."""
    policy, reference = Denoiser(0).double(), live(Denoiser(1).double())
    batch = next(method.batches(policy, reference, 0))
    return policy, reference, batch.mapped(lambda x: x.double() if x.is_floating_point() else x)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_loss_is_the_weighted_sum_of_what_is_derived_by_hand(name: str) -> None:
    """Each slot's pair has its own strength, between 0.6 and 1, and weight, between 0.55 and 1.45."""
    each = source()
    method = VARIANTS[name](each)
    policy, reference, batch = exact(method)
    total, _ = method.loss(policy, reference, batch, log=False)
    pairs = [each.pairs[pair_place(each.seed, 0, slot, 8, 10)[0]] for slot in range(8)]
    s, weight = torch.tensor([(pair.strength, pair.weight) for pair in pairs], dtype=torch.float64).unbind(1)
    (w, l), (w_ref, l_ref) = pair_errors(policy, batch), reference(batch)
    losses = BY_HAND[name](w, l, 25 * ((l - l_ref) - (w - w_ref)), s)
    assert total.item() == pytest.approx((weight * losses).sum().item(), rel=1e-6)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "safeguard"])
def test_gradients_in_float64(name: str) -> None:
    """From the loss over a batch to the policy's weights, against finite differences."""
    method = VARIANTS[name](source())
    policy, reference, batch = exact(method)

    def loss(weight: torch.Tensor) -> torch.Tensor:
        def moved(*inputs: object) -> torch.Tensor:
            return torch.func.functional_call(policy, {"weight": weight}, inputs)

        return method.loss(moved, reference, batch, log=False)[0]

    assert torch.autograd.gradcheck(loss, [policy.weight])


def test_the_safeguards_gradient_in_float64() -> None:
    """On each output, in a random direction, against finite differences of the plain loss: losers' are times lambda."""
    plain, guarded = (DPO(source(), beta=1.0, safeguard=mu) for mu in (None, 0.9))
    policy, reference, batch = exact(plain)
    output = policy(batch.x_t, batch.t, batch.cond).detach().requires_grad_()
    (found,) = torch.autograd.grad(guarded.loss(lambda *_: output, reference, batch, log=False)[0], output)

    def loss(at: torch.Tensor) -> torch.Tensor:
        return plain.loss(lambda *_: at, reference, batch, log=False)[0]

    with torch.no_grad():
        along = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        steps = 1e-5 * along * torch.eye(len(output)).view(-1, len(output), 1, 1, 1)
        slopes = torch.stack([(loss(output + step) - loss(output - step)) / 2e-5 for step in steps])
        w, l = (output - batch.target).chunk(2)
        product, square = (w * l).sum(dim=(1, 2, 3)), w.square().sum(dim=(1, 2, 3))
        scale = torch.where(product > 0, (0.1 * square / product).clamp(max=1), 1)
        assert (scale < 1).any()
    expected = slopes * torch.cat([torch.ones_like(scale), scale])
    torch.testing.assert_close((found * along).sum(dim=(1, 2, 3)), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["dpo", "hinge", "ipo", "mapo", "flow"])
def test_a_share_of_votes_is_the_mean_over_single_votes(name: str) -> None:
    """Three votes for w0 and one for l0, as four answers and as one comparison: loss and gradient."""
    each, _ = both_ways_round()
    method = VARIANTS[name](each)
    draw = pair_draw(each.seed, 0, 0, each.shape, each.times, "none", 0.0)
    policy, reference = Denoiser(0).double(), live(Denoiser(1).double())
    votes = [one(n, "a" if n < 3 else "b", "w0", "l0", "p0") for n in range(4)]
    share = one(9, "a", "w0", "l0", "p0", share=0.75, votes=4)

    def mean(*rows: dict[str, object]) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = make_pairs(table(*rows), "train")
        batch = each.drawn(pairs, [draw] * len(pairs)).mapped(lambda x: x.double() if x.is_floating_point() else x)
        loss = method.loss(policy, reference, batch, log=False)[0] / len(pairs)
        return loss, torch.autograd.grad(loss, policy.weight)[0]

    for of_votes, of_share in zip(mean(*votes), mean(share), strict=True):
        torch.testing.assert_close(of_votes, of_share, rtol=1e-9, atol=1e-12)


def test_sft_learns_from_no_tie() -> None:
    each = source()
    tied = replace(each, pairs=[replace(pair, strength=0.5) for pair in each.pairs])
    assert SFT(tied).loss(Denoiser(0), None, next(tied.at(0)), log=False)[0].item() == 0


def test_the_safeguard_refuses_shares() -> None:
    with pytest.raises(UserError, match=r"dpo\.safeguard: expected null where pairs are shares of votes"):
        load(settings("dpo", beta=7.0, link="sigmoid", safeguard=0.6), Offers(source()))


def test_dpo_is_ln2_at_the_reference() -> None:
    policy = Denoiser(0)
    method = DPO(source(), beta=2000)
    batch = next(method.batches(policy, live(policy), 0))
    total, logs = method.loss(policy, live(policy), batch, log=True)
    assert total.item() == pytest.approx(batch.weight.sum().item() * math.log(2), rel=1e-6)
    assert logs["winner_change"].item() == logs["loser_change"].item() == 0
    assert logs["implicit_accuracy"].item() == 4


@pytest.mark.parametrize("name", ["dpo", "hinge", "ipo", "flow"])
def test_swapped_pairs_give_the_opposite_direction_at_the_reference(name: str) -> None:
    def grad(each: PairSource) -> torch.Tensor:
        policy = Denoiser(0)
        reference = live(Denoiser(0))
        method = VARIANTS[name](each)
        batch = next(method.batches(policy, reference, 0))
        method.loss(policy, reference, batch, log=False)[0].backward()
        return policy.weight.grad

    one, other = map(grad, both_ways_round())
    assert one.abs().max() > 1
    torch.testing.assert_close(one, -other, rtol=1e-4, atol=1e-4)


def test_a_pair_shares_timestep_noise_and_prompt() -> None:
    batch = next(source().at(0))
    count = len(batch)
    assert torch.equal(batch.t[:count], batch.t[count:])
    assert torch.equal(batch.target[:count], batch.target[count:])
    assert torch.equal(batch.cond["hidden"][:count], batch.cond["hidden"][count:])
    assert not torch.equal(batch.x_t[:count], batch.x_t[count:])


def test_dropped_prompts_are_the_empty_one() -> None:
    each = source(prompt_drop=1.0)
    empty = each.prompts.get(prompt_key(""))["hidden"]
    assert all(torch.equal(row, empty) for row in next(each.at(0)).cond["hidden"])


def test_sft_ignores_losers_and_the_reference() -> None:
    each = source()
    policy = Denoiser(0)
    batch = next(each.at(0))
    nowhere = replace(batch, x_t=torch.cat([batch.x_t[:8], torch.full_like(batch.x_t[8:], 9.0)]))
    one, _ = SFT(each).loss(policy, live(Denoiser(1)), batch, log=False)
    other, logs = SFT(each).loss(policy, live(Denoiser(2)), nowhere, log=False)
    assert one.item() == other.item()
    assert logs == {}


def test_all_methods_log_the_same_names() -> None:
    each, policy = source(), Denoiser(0)
    batch = next(each.at(0))
    logs = [method(each).loss(policy, live(policy), batch, True)[1] for method in VARIANTS.values()]
    assert all(each.keys() == logs[0].keys() for each in logs)


def test_mapo_needs_no_reference() -> None:
    each, policy = source(), Denoiser(0)
    batch = next(each.at(0))

    def never(*_: object) -> torch.Tensor:
        raise AssertionError("the reference was asked")

    assert MaPO(each, 0.1).loss(policy, never, batch, log=False)[1] == {}


def test_the_safeguard_scales_the_losers_gradient_and_not_the_loss() -> None:
    """The gradient is the winners' part plus lambda times the losers', pair by pair."""
    each, reference, mu = source(), live(Denoiser(1)), 0.9
    batch = next(each.at(0))
    policy = Denoiser(0)
    plain, _ = DPO(each, 50.0).loss(policy, reference, batch, log=False)
    guarded, _ = DPO(each, 50.0, safeguard=mu).loss(policy, reference, batch, log=False)
    assert guarded.item() == plain.item()
    (found,) = torch.autograd.grad(guarded, policy.weight)

    prediction = policy(batch.x_t, batch.t, batch.cond)
    w, l = (prediction - batch.target).chunk(2)
    with torch.no_grad():
        error_w_ref, error_l_ref = pair_errors(Denoiser(1), batch)
        product, square = (w * l).sum(dim=(1, 2, 3)), w.square().sum(dim=(1, 2, 3))
        scale = torch.where(product > 0, ((1 - mu) * square / product).clamp(max=1), 1)
        margin = (l.square().mean(dim=(1, 2, 3)) - error_l_ref) - (w.square().mean(dim=(1, 2, 3)) - error_w_ref)
        slope = 25.0 * batch.weight * (torch.sigmoid(25.0 * margin) - batch.strength)
        assert (scale < 1).any()
    by_hand = slope * (scale * l.square().mean(dim=(1, 2, 3)) - w.square().mean(dim=(1, 2, 3)))
    (expected,) = torch.autograd.grad(by_hand.sum(), policy.weight)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_methods_get_what_the_params_say() -> None:
    each = replace(source(), pairs=[replace(pair, strength=1.0) for pair in source().pairs])
    guarded = settings("dpo", beta=7.0, link="hinge", safeguard=0.6)
    assert load(guarded, Offers(each)) == DPO(each, beta=7.0, link="hinge", safeguard=0.6)
    assert load(settings("mapo", beta=0.1), Offers(each)) == MaPO(each, beta=0.1)
    assert load(settings("sft", curate=None), Offers(each)) == SFT(each)


def test_posterior_sample_by_hand() -> None:
    """Mean 1, variance e^2 (deviation e), noise 2: 1 + 2 e; the mirrored image's own moments where flipped."""
    one = torch.ones(1, 1, 1)
    moments = {"mean": one, "logvar": 2 * one, "mean_flip": 5 * one, "logvar_flip": 0 * one}
    assert latents(moments, 2 * one, flip=False).item() == pytest.approx(1 + 2 * math.e)
    assert latents(moments, 2 * one, flip=True).item() == 7
