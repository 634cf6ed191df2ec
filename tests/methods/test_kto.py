"""Diffusion-KTO on batches: one reference point for the global batch, whatever it is cut into."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from diffalign.data.batches.pair_batches import latents
from diffalign.data.batches.unpaired_batches import UnpairedSource
from diffalign.data.shards.reader import prompt_key
from diffalign.diffusion.rng import image_draw, image_index
from diffalign.diffusion.timesteps import Times
from diffalign.methods.kto import KTO
from diffalign.methods.method import load
from diffalign.methods.sft import SFT
from diffalign.reference.reference import live, pair_errors
from diffalign.training.step import within
from tests.helpers.memory_batches import SHAPE, Denoiser, source, unpaired
from tests.helpers.methods import Offers, settings

BETA, SHARE = 50.0, 0.8
POLICY, REFERENCE = 0, 1
"""Seeds of denoisers of which the policy is the better one, so that z isn't at its bound."""


def gradient(sources: list[UnpairedSource]) -> torch.Tensor:
    """Of several ranks' shares in one process: each is given what all of them sum up to."""
    policy, reference = Denoiser(POLICY), live(Denoiser(REFERENCE))
    parts = [KTO(each, BETA, SHARE).first_pass(policy, reference, 4)[0] for each in sources]
    for each in sources:
        method = KTO(each, BETA, SHARE, total=lambda own: torch.stack(parts).sum(dim=0))
        for batch in method.batches(policy, reference, 4):
            total, _ = method.loss(policy, reference, batch, log=False)
            (total / each.batch_size).backward()
    return policy.weight.grad


def test_accumulating_is_one_large_batch() -> None:
    whole = gradient([unpaired()])
    close = {"rtol": 1e-5, "atol": 1e-6 * whole.abs().max().item()}  # sums in another order
    torch.testing.assert_close(gradient([unpaired(micro_batch_size=1)]), whole, **close)
    torch.testing.assert_close(gradient([unpaired(micro_batch_size=3)]), whole, **close)
    ranks = [unpaired(rank=rank, world=4, micro_batch_size=2) for rank in range(4)]
    torch.testing.assert_close(gradient(ranks), whole, **close)
    alone = sum(gradient([rank]) for rank in ranks)
    assert not torch.allclose(alone, whole, rtol=1e-3), "a reference point for each rank would be another loss"


def test_loss_and_gradient_by_hand() -> None:
    """1 - sigmoid(± 25 (E_ref - E - z)), z the share-weighted mean of both kinds' E_ref - E."""
    each, policy, reference = unpaired(), Denoiser(POLICY), Denoiser(REFERENCE)
    method = KTO(each, BETA, SHARE)
    (batch,) = method.batches(policy, live(reference), 0)
    total, logs = method.loss(policy, live(reference), batch, log=True)

    w, l = pair_errors(policy, batch.images)
    w_ref, l_ref = (error.detach() for error in pair_errors(reference, batch.images))
    z = (0.8 * (w_ref - w).mean() + 0.2 * (l_ref - l).mean()).item()
    assert z > 0.01 and batch.z.item() == pytest.approx(z)
    liked, disliked = 1 - torch.sigmoid(25 * (w_ref - w - z)), 1 - torch.sigmoid(-25 * (l_ref - l - z))
    expected = (0.8 * liked + 0.2 * disliked).sum()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    (found,) = torch.autograd.grad(total, policy.weight)
    torch.testing.assert_close(found, torch.autograd.grad(expected, policy.weight)[0], rtol=1e-4, atol=1e-5)
    assert logs["winner_change"].item() == pytest.approx((w - w_ref).sum().item())


def test_one_half_at_the_reference() -> None:
    policy = Denoiser(0)
    method = KTO(unpaired(), 2000, SHARE)
    (batch,) = method.batches(policy, live(policy), 0)
    total, logs = method.loss(policy, live(policy), batch, log=True)
    assert total.item() / 8 == 0.5
    assert batch.z.item() == logs["winner_change"].item() == logs["loser_change"].item() == 0


def test_the_reference_runs_once_and_z_has_no_gradient() -> None:
    calls = []

    def counted(batch):  # type: ignore[no-untyped-def]
        calls.append(len(batch))
        return live(Denoiser(REFERENCE))(batch)

    policy = Denoiser(POLICY)
    method = KTO(unpaired(micro_batch_size=4), BETA, SHARE)
    for batch in method.batches(policy, counted, 0):
        method.loss(policy, counted, batch, log=True)
        assert not batch.z.requires_grad
    assert calls == [4, 4]


def test_batches_are_made_in_the_precision_of_the_loss() -> None:
    """Two batches with a forward each, in bf16; what is between them isn't, and the loss has its gradient after it."""
    layer = torch.nn.Linear(2, 1)

    def batches() -> Iterator[torch.Tensor]:
        for _ in range(2):
            with torch.no_grad():
                assert layer(torch.ones(1, 2)).dtype == torch.bfloat16
            yield torch.ones(1, 2)

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16)

    for batch in within(autocast, batches()):
        assert not torch.is_autocast_enabled("cpu")
        with autocast():
            layer(batch).sum().backward()
    assert layer.weight.grad.tolist() == [[2, 2]]


def test_images_of_a_slot_have_nothing_in_common() -> None:
    batch = next(unpaired(times=replace(source().times, strata=8)).at(0))
    assert batch.x_t.shape == (16, *SHAPE) and len(batch) == 8
    for half in (batch.t[:8], batch.t[8:]):
        assert sorted((half * 8 // 100).tolist()) == list(range(8)), "each side has its own strata"
    assert not torch.equal(batch.t[:8], batch.t[8:])
    assert not any(torch.equal(w, l) for w, l in zip(*batch.target.chunk(2), strict=True))
    assert len(torch.unique(batch.target, dim=0)) == 16


def test_each_side_is_gone_through_in_an_order_of_its_own() -> None:
    """24 slots: an epoch of ten desirable images and one of seven undesirable ones hold each of them once."""
    order = {
        side: [image_index(3, step, slot, side, 8, count) for step in range(3) for slot in range(8)]
        for side, count in enumerate((10, 7))
    }
    assert sorted(order[0][:10]) == sorted(order[0][10:20]) == list(range(10))
    assert sorted(order[1][:7]) == sorted(order[1][7:14]) == list(range(7))
    assert order[0][:10] != order[0][10:20]
    same = [[image_index(3, 0, slot, side, 10, 10) for slot in range(10)] for side in (0, 1)]
    assert same[0] != same[1]


@pytest.mark.parametrize("side", [0, 1])
def test_the_batch_is_made_of_what_was_drawn(side: int) -> None:
    """Each slot's image: its own moments, noised as its draw says, under its own prompt or none."""
    each = unpaired(flip="independent", prompt_drop=0.5)
    batch, of_side = next(each.at(5)), (each.desirable, each.undesirable)[side]
    for slot in range(8):
        row = 8 * side + slot
        label = of_side[image_index(3, 5, slot, side, 8, len(of_side))]
        draw = image_draw(3, 5, slot, side, SHAPE, each.times, True, 0.5)
        x0 = latents(each.images.get(label.image), draw.posterior, draw.flip)
        x_t = each.process.noised(x0[None], draw.eps[None], torch.tensor([draw.t]))
        torch.testing.assert_close(batch.x_t[row], x_t[0])
        assert batch.t[row] == draw.t
        prompt = each.prompts.get(prompt_key("" if draw.drop else label.prompt))
        assert torch.equal(batch.cond["hidden"][row], prompt["hidden"])


def test_mirroring_and_dropping_prompts() -> None:
    times = Times(source().process)
    draws = [image_draw(0, 0, slot, 0, SHAPE, times, True, 0.2) for slot in range(400)]
    counts = Counter((draw.flip, draw.drop) for draw in draws)
    assert 160 < counts[True, False] + counts[True, True] < 240
    assert 50 < counts[False, True] + counts[True, True] < 110
    assert not any(image_draw(0, 0, slot, 0, SHAPE, times, False, 0.2).flip for slot in range(20))


def test_it_logs_what_the_others_log_and_gets_what_the_params_say() -> None:
    each, policy = unpaired(), Denoiser(0)
    method = load(settings("kto", beta=7.0, desirable_share=0.6), Offers(each))
    assert method == KTO(each, 7.0, 0.6)
    assert method.about() == {"beta": 7.0, "summed": 3.5 / 64, "diffusion_kto": 3.5}
    batch = next(method.batches(policy, live(policy), 0))
    others = SFT(source()).loss(policy, live(policy), next(source().at(0)), True)[1]
    assert method.loss(policy, live(policy), batch, True)[1].keys() == others.keys()
    with pytest.raises(ValueError, match="expected a reference"):
        next(method.batches(policy, None, 0))
