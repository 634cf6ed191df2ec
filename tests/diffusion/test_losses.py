"""The losses: values by hand, ln 2, antisymmetry, gradients, and parity with the official formula."""

import math

import pytest
import torch

from diffalign.diffusion.losses import (
    LINKS,
    beta_text,
    conventions,
    diffusion_dpo,
    diffusion_kto,
    errors,
    implicit_accuracy,
    loser_scale,
    mapo,
    odds,
    reference_point,
    sft,
    with_gradient_scaled,
)


def four(seed: int = 0, count: int = 6, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.rand(count, generator=rng, dtype=dtype) for _ in range(4)]


def test_errors_is_the_mean_over_a_sample() -> None:
    """Sample 0 is off by 2 everywhere: 4. Sample 1 is off by 3 in one of its eight elements: 9 / 8."""
    target = torch.zeros(2, 2, 2, 2)
    prediction = torch.zeros(2, 2, 2, 2)
    prediction[0] = 2
    prediction[1, 0, 0, 0] = 3
    assert errors(prediction, target).tolist() == [4, 1.125]


BY_HAND = [torch.tensor([x], dtype=torch.float64) for x in (0.3, 0.4, 0.302, 0.401)]
STRENGTH = torch.linspace(0.5, 1, 6, dtype=torch.float64)


def test_dpo_by_hand() -> None:
    """Winner improves by 0.002, loser by 0.001: margin (0.4-0.401) - (0.3-0.302) = -0.001 + 0.002 = 0.001.

    beta 2000 enters as 1000: logit 1, loss -log sigmoid(1) = log(1 + e^-1) = 0.313262.
    """
    losses, margin = diffusion_dpo(*BY_HAND, beta=2000)
    assert margin.item() == pytest.approx(0.001)
    assert losses.item() == pytest.approx(math.log1p(math.exp(-1)), rel=1e-9)


def test_dpo_with_strength_by_hand() -> None:
    """The same pair, of which three raters in four say so; log(1 + e) is 1 more than log(1 + e^-1).

    3/4 log(1 + e^-1) + 1/4 log(1 + e) = 0.313262 + 1/4. At the logit 1 a hinge is 3/4 * 0 + 1/4 * 2, IPO is
    3/4 * (1/2)^2 + 1/4 * (3/2)^2.
    """
    strength = torch.tensor([0.75], dtype=torch.float64)
    found = {link: diffusion_dpo(*BY_HAND, 2000, strength, link)[0].item() for link in LINKS}
    assert found == pytest.approx({"sigmoid": 0.563262, "hinge": 0.5, "ipo": 0.75}, rel=1e-6)


def test_dpo_is_ln2_at_the_reference() -> None:
    error_w, error_l, *_ = four()
    for strength in (None, STRENGTH):
        losses, margin = diffusion_dpo(error_w, error_l, error_w, error_l, 5000, strength)
        assert (margin == 0).all()
        torch.testing.assert_close(losses, torch.full_like(losses, math.log(2)))


def test_swapping_winner_and_loser_flips_the_margin() -> None:
    w, l, w_ref, l_ref = four()
    losses, margin = diffusion_dpo(w, l, w_ref, l_ref, beta=3)
    swapped, opposite = diffusion_dpo(l, w, l_ref, w_ref, beta=3)
    torch.testing.assert_close(margin, -opposite)
    # log sigmoid(z) - log sigmoid(-z) = z
    torch.testing.assert_close(swapped - losses, 1.5 * margin)


@pytest.mark.parametrize("link", LINKS)
def test_swapping_with_strength_is_doubting_the_label(link: str) -> None:
    """A pair the other way round at s is the pair at 1 - s. With the sigmoid they differ by 2 s - 1 logits."""
    w, l, w_ref, l_ref = four()
    losses, margin = diffusion_dpo(w, l, w_ref, l_ref, 3, STRENGTH, link)
    swapped, _ = diffusion_dpo(l, w, l_ref, w_ref, 3, STRENGTH, link)
    torch.testing.assert_close(swapped, diffusion_dpo(w, l, w_ref, l_ref, 3, 1 - STRENGTH, link)[0])
    if link == "sigmoid":
        torch.testing.assert_close(swapped - losses, (2 * STRENGTH - 1) * 1.5 * margin)


@pytest.mark.parametrize("strength", [None, STRENGTH], ids=["hard", "soft"])
def test_dpo_gradient(strength: torch.Tensor | None) -> None:
    """d loss / d E_w = beta / 2 * (s - sigmoid(logit)), s = 1 without strength, and minus that for E_l."""
    values = [v.requires_grad_() for v in four()]
    assert torch.autograd.gradcheck(lambda *v: diffusion_dpo(*v, beta=4, strength=strength)[0], values)
    losses, margin = diffusion_dpo(*values, beta=4, strength=strength)
    losses.sum().backward()
    expected = 2 * ((1 if strength is None else strength) - torch.sigmoid(2 * margin.detach()))
    torch.testing.assert_close(values[0].grad, expected)
    torch.testing.assert_close(values[1].grad, -expected)


def test_dpo_is_the_official_formula() -> None:
    """Salesforce's train.py: model_diff = E_w - E_l, inside = -0.5 * beta * (model_diff - ref_diff), -logsigmoid."""
    rng = torch.Generator().manual_seed(1)
    predictions, target, reference = (torch.randn(8, 4, 8, 8, generator=rng) for _ in range(3))
    model_losses = (predictions - target).pow(2).mean(dim=[1, 2, 3])
    ref_losses = (reference - target).pow(2).mean(dim=[1, 2, 3])
    model_w, model_l = model_losses.chunk(2)
    ref_w, ref_l = ref_losses.chunk(2)
    inside = -0.5 * 2.5 * ((model_w - model_l) - (ref_w - ref_l))
    official = -1 * torch.nn.functional.logsigmoid(inside)

    ours, margin = diffusion_dpo(*errors(predictions, target).chunk(2), *errors(reference, target).chunk(2), beta=2.5)
    torch.testing.assert_close(ours, official)
    assert implicit_accuracy(margin).tolist() == (inside > 0).float().tolist()


def test_dpo_uses_the_mean_with_half_beta_like_the_papers_sum() -> None:
    """S9 takes sums: beta_sum = beta / 2 / elements gives the same loss."""
    rng = torch.Generator().manual_seed(2)
    w, l, w_ref, l_ref = (torch.rand(3, 4, 8, 8, generator=rng, dtype=torch.float64) for _ in range(4))
    means = [v.mean(dim=(1, 2, 3)) for v in (w, l, w_ref, l_ref)]
    sums = [v.sum(dim=(1, 2, 3)) for v in (w, l, w_ref, l_ref)]
    beta_sum = 7.0 / 2 / w[0].numel()
    paper = -torch.nn.functional.logsigmoid(-beta_sum * ((sums[0] - sums[2]) - (sums[1] - sums[3])))
    torch.testing.assert_close(diffusion_dpo(*means, beta=7.0)[0], paper)


def test_strength_one_is_the_hard_loss_and_one_half_has_no_direction() -> None:
    values = four()
    ones, halves = torch.ones(6, dtype=torch.float64), torch.full((6,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(diffusion_dpo(*values, beta=3, strength=ones)[0], diffusion_dpo(*values, beta=3)[0])
    w, l, w_ref, l_ref = values
    torch.testing.assert_close(
        diffusion_dpo(w, l, w_ref, l_ref, beta=3, strength=halves)[0],
        diffusion_dpo(l, w, l_ref, w_ref, beta=3, strength=halves)[0],
    )


def test_implicit_accuracy_counts_ties_half() -> None:
    assert implicit_accuracy(torch.tensor([0.1, 0.0, -0.1])).tolist() == [1, 0.5, 0]


def test_sft_is_the_winners_error() -> None:
    error = torch.tensor([0.25, 0.5])
    assert torch.equal(sft(error), error)


def test_the_same_beta_in_other_code() -> None:
    """SD1.5's 5000 over 4 * 64 * 64 elements, as the paper, the official launcher and diffusers' scripts write it."""
    assert conventions(5000, 16384) == {
        "summed": pytest.approx(0.152588, rel=1e-5),
        "diffusers_sd15": 2500,
        "diffusers_sdxl": 5000,
        "lr_printed": pytest.approx(8.192e-9),
        "lr_launched": pytest.approx(8.192e-6),
    }
    kto = beta_text(2000, 1e-3, {"summed": 3.90625, "diffusion_kto": 1000})
    assert kto == "beta 2000 is 3.906 for errors summed over a latent, 1000 as --beta_dpo of Diffusion-KTO's code"


def test_summed_errors_and_diffusers_scripts_give_the_same_loss() -> None:
    """SD1.5's script: -logsigmoid(-beta_dpo * inside), SDXL's: -logsigmoid(-0.5 * beta_dpo * inside), on means."""
    rng = torch.Generator().manual_seed(4)
    samples = [torch.rand(3, 4, 8, 8, generator=rng, dtype=torch.float64) for _ in range(4)]
    means, sums = ([v.flatten(1).mean(1) for v in samples], [v.flatten(1).sum(1) for v in samples])
    ours, _ = diffusion_dpo(*means, beta=7)
    there = conventions(7, samples[0][0].numel())

    def theirs(values: list[torch.Tensor], factor: float) -> torch.Tensor:
        w, l, w_ref, l_ref = values
        return -torch.nn.functional.logsigmoid(-factor * ((w - l) - (w_ref - l_ref)))

    torch.testing.assert_close(theirs(sums, there["summed"]), ours)
    torch.testing.assert_close(theirs(means, there["diffusers_sd15"]), ours)
    torch.testing.assert_close(theirs(means, 0.5 * there["diffusers_sdxl"]), ours)


def test_links_by_hand() -> None:
    """At the logits -1, 0, 1 and 2."""
    logits = torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    assert LINKS["hinge"](logits).tolist() == [2, 1, 0, 0]
    assert LINKS["ipo"](logits).tolist() == [2.25, 0.25, 0.25, 2.25]
    assert LINKS["sigmoid"](logits).tolist() == pytest.approx([math.log1p(math.exp(-z)) for z in (-1, 0, 1, 2)])


def test_ipo_is_the_published_one_times_a_constant() -> None:
    """(m - 1 / (2 b))^2 with b = beta / 2 = 1.5, times b^2; its minimum is where beta * m = 1."""
    w, l, w_ref, l_ref = four()
    losses, margin = diffusion_dpo(w, l, w_ref, l_ref, beta=3, link="ipo")
    torch.testing.assert_close(losses, 1.5**2 * (margin - 1 / (2 * 1.5)).square())
    at_best, _ = diffusion_dpo(w, w + 1 / 3, w, w, beta=3, link="ipo")
    torch.testing.assert_close(at_best, torch.zeros_like(w), atol=1e-12, rtol=0)


@pytest.mark.parametrize("link", LINKS)
def test_gradients_of_all_links(link: str) -> None:
    values = [v.requires_grad_() for v in four()]
    assert torch.autograd.gradcheck(lambda *v: diffusion_dpo(*v, beta=1.7, strength=STRENGTH, link=link)[0], values)


@pytest.mark.parametrize("link", LINKS)
def test_all_links_prefer_the_winner_at_the_reference(link: str) -> None:
    """The step that lowers the loss lowers the winner's error and raises the loser's, by as much."""
    w, l, *_ = (v.requires_grad_() for v in four())
    losses, _ = diffusion_dpo(w, l, w.detach(), l.detach(), beta=2, link=link)
    losses.sum().backward()
    assert w.grad is not None and (w.grad > 0).all()
    torch.testing.assert_close(l.grad, -w.grad)


def residuals(seed: int = 3, count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Winners' and losers', alike on the whole and the losers' larger: plain DPO would make winners worse."""
    rng = torch.Generator().manual_seed(seed)
    common, w, l = (torch.randn(count, 4, 3, 3, generator=rng, dtype=torch.float64) for _ in range(3))
    return common + 0.5 * w, 2 * common + l


@pytest.mark.parametrize("mu", [0.0, 0.6, 0.9, 1.0])
def test_the_safeguard_lets_the_winners_error_fall(mu: float) -> None:
    """A small step on the outputs along -(g_w - lambda g_l) lowers |residual_w|^2 by at least mu of plain descent's."""
    w, l = residuals()
    scale = loser_scale(w, l, mu).double().view(-1, 1, 1, 1)
    assert ((0 <= scale) & (scale <= 1)).all()
    step = 1e-6

    def fall(direction: torch.Tensor) -> torch.Tensor:
        return (w.square() - (w - step * direction).square()).sum(dim=(1, 2, 3)) / step

    assert (fall(w - scale * l) >= mu * fall(w) - 1e-3).all()
    assert (fall(w - l) < 0).any()  # without it some winners get worse


def test_the_safeguard_by_hand() -> None:
    """<g_w, g_l> = 4 and |g_w|^2 = 2 at mu 0.5: 0.25. Opposite or small products leave the gradient as it is."""
    w = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]).view(3, 2, 1, 1)
    l = torch.tensor([[2.0, 2.0], [-2.0, -2.0], [0.1, 0.1]]).view(3, 2, 1, 1)
    assert loser_scale(w, l, 0.5).tolist() == [0.25, 1, 1]


@pytest.mark.parametrize("mu", [0.6, 0.9])
def test_the_safeguard_is_the_authors_formula_at_one_pair(mu: float) -> None:
    """get_adaptive_lose_l_scale of AIDC-AI/Diffusion-SDPO's train.py: from the mean errors' gradients on the outputs.

    Its batch is one pair: of several it takes one factor.
    """
    seen = set()
    for seed in range(4):
        for size in (1.0, 0.05, -1.0):
            w, l = residuals(seed, count=1)
            output_w, output_l = w.clone().requires_grad_(), (size * l).requires_grad_()
            (g_w,) = torch.autograd.grad(output_w.square().mean(), output_w)
            (g_l,) = torch.autograd.grad(output_l.square().mean(), output_l)
            most = ((1 - mu) * g_w.norm() ** 2 / torch.dot(g_w.flatten(), g_l.flatten())).item()
            expected = min(1.0, most) if most > 0 else 1.0
            assert loser_scale(w, size * l, mu).item() == pytest.approx(expected, rel=1e-9)
            seen.add((most > 0, expected < 1))
    assert seen == {(True, True), (True, False), (False, False)}


def test_scaling_a_gradient_keeps_the_value() -> None:
    rng = torch.Generator().manual_seed(0)
    value = torch.rand(1000, generator=rng)
    assert torch.equal(with_gradient_scaled(value, torch.rand(1000, generator=rng)), value)
    value = torch.tensor([2.0, 3.0], requires_grad=True)
    scaled = with_gradient_scaled(value, torch.tensor([0.25, 1.0]))
    scaled.sum().backward()
    assert value.grad is not None and value.grad.tolist() == [0.25, 1]


def test_mapo_by_hand() -> None:
    """phi(0) = 1, phi(2 ln 2) = ln 2 / (2 - 1); with T = 1, beta 0.1: E_w - 0.1 log sigmoid(1 - ln 2)."""
    w, l = torch.tensor([0.0], dtype=torch.float64), torch.tensor([2 * math.log(2)], dtype=torch.float64)
    assert odds(w).item() == pytest.approx(1)
    assert odds(l).item() == pytest.approx(math.log(2))
    assert mapo(w, l, beta=0.1, T=1).item() == pytest.approx(0.1 * math.log1p(math.exp(-(1 - math.log(2)))))


def test_mapo_with_strength_by_hand() -> None:
    """The same pair at s = 3/4: the logit 1 - ln 2 is e^-z = 2 / e, and log(1 + e^z) is z more than log(1 + e^-z).

    1/4 * 2 ln 2 + 0.1 * (log(1 + 2 / e) + 1/4 * (1 - ln 2)) = 0.346574 + 0.1 * (0.551445 + 0.076713).
    """
    w, l, strength = (torch.tensor([x], dtype=torch.float64) for x in (0.0, 2 * math.log(2), 0.75))
    assert mapo(w, l, 0.1, 1, strength).item() == pytest.approx(0.4093894, rel=1e-6)


def test_mapo_is_the_official_formula() -> None:
    """compute_loss of the authors' script: snr = 0.5, log odds times the timesteps, logsigmoid, beta 0.1."""
    w, l, *_ = four()
    snr = 0.5
    log_odds = (snr * w) / (torch.exp(snr * w) - 1) - (snr * l) / (torch.exp(snr * l) - 1)
    official = w - 0.1 * torch.nn.functional.logsigmoid(log_odds * 1000)
    torch.testing.assert_close(mapo(w, l, beta=0.1, T=1000), official)


def test_mapo_with_strength() -> None:
    """Certainty is the hard loss; at one half nothing says which is which."""
    w, l, *_ = four()
    torch.testing.assert_close(mapo(w, l, 0.1, 20, torch.ones_like(w)), mapo(w, l, 0.1, 20))
    halves = torch.full_like(w, 0.5)
    torch.testing.assert_close(mapo(w, l, 0.1, 20, halves), mapo(l, w, 0.1, 20, halves))


def test_mapo_of_equal_errors_is_fine_tuning_plus_ln2() -> None:
    w, *_ = four()
    for strength in (None, STRENGTH):
        torch.testing.assert_close(mapo(w, w, 0.1, 1000, strength), w + 0.1 * math.log(2))


def test_swapping_winner_and_loser_turns_mapos_preference_around() -> None:
    """A pair and its swap differ by E_l - E_w and beta times the logit, T * (phi(E_w) - phi(E_l)), all times 2 s - 1.

    phi is as the authors write it, with snr = 0.5.
    """
    w, l, *_ = four()
    logits = 20 * (0.5 * w / (torch.exp(0.5 * w) - 1) - 0.5 * l / (torch.exp(0.5 * l) - 1))
    for strength, sure in ((None, 1), (STRENGTH, 2 * STRENGTH - 1)):
        preference, swapped = mapo(w, l, 0.1, 20, strength), mapo(l, w, 0.1, 20, strength)
        torch.testing.assert_close(swapped - preference, sure * (l - w + 0.1 * logits))


@pytest.mark.parametrize("strength", [None, STRENGTH], ids=["hard", "soft"])
def test_mapo_gradient(strength: torch.Tensor | None) -> None:
    """d loss / d E_w is s from fine-tuning and -beta * (s - sigmoid(x)) * T * phi'(E_w), with x the logit, phi' < 0."""
    w, l, *_ = (v.requires_grad_() for v in four())
    assert torch.autograd.gradcheck(lambda w, l: mapo(w, l, 0.1, 20, strength), (w, l))
    mapo(w, l, 0.1, 20, strength).sum().backward()
    assert w.grad is not None and l.grad is not None
    s = torch.ones_like(w) if strength is None else strength
    pull = s - torch.sigmoid(20 * (odds(w) - odds(l))).detach()
    assert torch.equal((w.grad - s).sign(), pull.sign())
    assert torch.equal((l.grad - (1 - s)).sign(), -pull.sign())


LIKED, DISLIKED = torch.tensor([True]), torch.tensor([False])


def test_kto_by_hand() -> None:
    """The error falls from 0.302 to 0.3, by 0.002, which is 0.001 above z. beta 2000 enters as 1000: logit 1.

    Of a desirable image: 1 - sigmoid(1) = 0.268941; of an undesirable one: 1 - sigmoid(-1) = 0.731059.
    """
    error, error_ref, z = (torch.tensor(x, dtype=torch.float64) for x in ([0.3], [0.302], 0.001))
    assert diffusion_kto(error, error_ref, LIKED, 2000, z).item() == pytest.approx(0.268941, rel=1e-5)
    assert diffusion_kto(error, error_ref, DISLIKED, 2000, z).item() == pytest.approx(0.731059, rel=1e-5)


def test_kto_is_one_half_at_the_reference() -> None:
    error, *_ = four()
    z = reference_point((error - error).mean())
    for label in (LIKED, DISLIKED):
        assert (diffusion_kto(error, error, label.expand(6), 5000, z) == 0.5).all()


def test_the_reference_point_is_never_below_the_reference() -> None:
    assert [reference_point(torch.tensor(x)).item() for x in (-0.25, 0.0, 0.25)] == [0, 0, 0.25]


def test_exchanged_labels_turn_kto_around() -> None:
    """sigmoid(x) + sigmoid(-x) = 1: what one label loses, the other gains, and the gradients are opposite."""
    error, error_ref, *_ = four()
    error.requires_grad_()
    desirable, z = torch.tensor([True, False, True, False, False, True]), torch.tensor(0.1)
    one, other = (diffusion_kto(error, error_ref, labels, 3, z) for labels in (desirable, ~desirable))
    torch.testing.assert_close(one + other, torch.ones_like(one))
    (grad,), (opposite,) = (torch.autograd.grad(loss.sum(), error) for loss in (one, other))
    torch.testing.assert_close(grad, -opposite)
    assert ((grad > 0) == desirable).all(), "a desirable image's error is to fall, an undesirable one's to rise"


def test_kto_gradient() -> None:
    """d loss / d E = w * beta / 2 * sigmoid(x) * sigmoid(-x), x the logit; z is a constant."""
    error, error_ref, *_ = four()
    error.requires_grad_()
    z = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    desirable = torch.tensor([True, False] * 3)
    assert torch.autograd.gradcheck(lambda e: diffusion_kto(e, error_ref, desirable, 4, z), [error])
    diffusion_kto(error, error_ref, desirable, 4, z).sum().backward()
    x = 2 * (error_ref - error - z).detach()
    w = torch.where(desirable, 1.0, -1.0)
    torch.testing.assert_close(error.grad, w * 2 * torch.sigmoid(x) * torch.sigmoid(-x))
    assert z.grad is None


@pytest.mark.parametrize("better", [0.02, -0.02])
def test_kto_is_the_authors_formula(better: float) -> None:
    """train_kto_sd_v1.5.py of jacklishufan/diffusion-kto, --halo sigmoid --bce_offset none, on one process."""
    error, error_ref, *_ = four()
    error_ref = error_ref + better  # the batch's mean on either side of the clamp
    labels = torch.tensor([1, 0, 0, 1, 1, 0])
    g_term = -error - -error_ref
    kl = g_term.mean().clamp(min=0)
    authors = 1 - torch.sigmoid((2 * labels - 1) * 5000 / 1e3 * (g_term - kl))

    z = reference_point((error_ref - error).mean())
    torch.testing.assert_close(diffusion_kto(error, error_ref, labels == 1, 2 * 5000 / 1e3, z), authors)


@pytest.mark.parametrize(("link", "slope"), [("sigmoid", 0.5 * math.tanh(0.75)), ("hinge", 0.5), ("ipo", 3.0)])
def test_a_tie_pulls_the_margin_to_0(link: str, slope: float) -> None:
    """At logit 1.5: (sigmoid(z) - sigmoid(-z)) / 2 = tanh(z / 2) / 2; half of the hinge's 1, past 1; IPO's 2 z.

    At logits -1.5, 0 and 1.5; beta is 2, so that the logit is the margin, which is minus the winner's error here.
    """
    error = torch.tensor([1.5, 0.0, -1.5], dtype=torch.float64, requires_grad=True)
    zeros, half = torch.zeros(3, dtype=torch.float64), torch.full((3,), 0.5, dtype=torch.float64)

    def losses(error_w: torch.Tensor) -> torch.Tensor:
        return diffusion_dpo(error_w, zeros, zeros, zeros, 2.0, half, link)[0]

    (found,) = torch.autograd.grad(losses(error).sum(), error)
    torch.testing.assert_close(-found, torch.tensor([-slope, 0.0, slope], dtype=torch.float64))
    assert torch.autograd.gradcheck(losses, [error])
