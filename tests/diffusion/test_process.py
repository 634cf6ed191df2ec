"""The processes against diffusers' schedulers, and their own inverses."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from diffalign.diffusion.process import (
    CLEAN,
    Diffusion,
    Flow,
    FlowNoise,
    scaled_linear,
    transition,
    zero_terminal_snr,
)

SD15 = {"beta_start": 0.00085, "beta_end": 0.012}


def process(prediction: str = "epsilon") -> Diffusion:
    return Diffusion(scaled_linear(**SD15, T=1000), prediction)


def scheduler(prediction: str = "epsilon") -> DDPMScheduler:
    return DDPMScheduler(1000, beta_schedule="scaled_linear", prediction_type=prediction, **SD15)


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(5, 4, 8, 8, generator=rng) for _ in range(2))
    return x0, eps, torch.tensor([0, 1, 500, 998, 999])


def test_schedule_is_stable_diffusions() -> None:
    torch.testing.assert_close(process().alpha_bar, scheduler().alphas_cumprod, rtol=0, atol=0)


def test_a_share_of_the_schedule_as_timesteps() -> None:
    spans = {(0, 1): range(1000), (0.4, 1): range(400, 1000), (0, 0.25): range(250), (1, 1): range(999, 1000)}
    assert {shares: process().span(shares) for shares in spans} == spans


def test_noising_is_the_schedulers() -> None:
    x0, eps, t = tensors()
    torch.testing.assert_close(process().noised(x0, eps, t), scheduler().add_noise(x0, eps, t))


def test_v_target_is_the_schedulers() -> None:
    x0, eps, t = tensors()
    expected = scheduler("v_prediction").get_velocity(x0, eps, t)
    torch.testing.assert_close(process("v_prediction").target(x0, eps, t), expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_gives_back_x0_and_eps(prediction: str) -> None:
    alpha_bar = scaled_linear(**SD15, T=1000).double()
    exact = Diffusion(alpha_bar, prediction)
    x0, eps, t = (value.double() if value.is_floating_point() else value for value in tensors())
    x_t = exact.noised(x0, eps, t)
    x0_back, eps_back = exact.split(exact.target(x0, eps, t), x_t, t)
    torch.testing.assert_close(x0_back, x0)
    torch.testing.assert_close(eps_back, eps)


def test_a_share_of_the_schedule_as_a_time() -> None:
    assert [process().time(share) for share in (0, 0.0005, 0.4, 0.99999, 1.0)] == [0, 0, 400, 999, 999]
    assert [Flow(1000, 3.0).time(share) for share in (0.0, 0.25, 0.999)] == [0.0, 0.25, 0.999]
    assert Flow(1000, 3.0).span((0.4, 0.5)) is None


def test_flow_noising_is_the_schedulers() -> None:
    x0, eps, _ = tensors()
    euler = FlowMatchEulerDiscreteScheduler(1000, shift=3.0)
    index = [0, 100, 500, 900, 999]
    expected = euler.scale_noise(x0, euler.timesteps[index], eps)
    torch.testing.assert_close(Flow(1000, 3.0).noised(x0, eps, euler.sigmas[index]), expected)


def test_flow_by_hand() -> None:
    """x0 = 2, eps = -2, t = 1/4: x_t = 3/4 * 2 - 1/4 * 2 = 1, v = -2 - 2 = -4; back, x0 = 1 + 1/4 * 4 = 2.

    With a wrong v of -8, x0 = 1 + 2 = 3.
    """
    flow = Flow(1000, 3.0)
    x0, eps, t = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -2.0), torch.tensor([0.25])
    x_t, v = flow.noised(x0, eps, t), flow.target(x0, eps, t)
    assert (x_t.item(), v.item()) == (1.0, -4.0)
    # Along the straight line, to x0 in one step.
    assert [flow.step(output, x_t, 0.25, 0.0).item() for output in (v, 2 * v)] == [2.0, 3.0]


# alpha_bar of Stable Diffusion's schedule in float64, for the values below.
SCHEDULE = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)


@pytest.mark.parametrize(
    ("times", "a", "b0", "b1", "s1"),
    [
        ((981, 961), 1.1228517009624683, -0.12325200628536326, -0.23293577737529092, 0.4544632724135991),
        ((501, 481), 1.0484563315326079, -0.057441992356364824, -0.11118792175530767, 0.2947845402773851),
        ((21, 1), 1.0090955346164456, -0.10006354229230377, -0.1292871355524564, 0.03947954614089512),
        ((1, -19), 1.000427623464135, -0.012142090164663218, -0.020714165791752986, 0.020648320165302107),
    ],
)
def test_ddim_coefficients(times: tuple[int, int], a: float, b0: float, b1: float, s1: float) -> None:
    """a = alpha' / alpha, b = sqrt(1 - alpha_bar' - s^2) - a sigma, at eta 0 and 1, computed apart in float64."""
    t, t_prev = (torch.tensor([time]) for time in times)
    for noise, expected in ((0.0, (a, b0, 0.0)), (1.0, (a, b1, s1))):
        found = [v.item() for v in Diffusion(SCHEDULE, "epsilon").coefficients(t, t_prev, noise)]
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_eta_one_is_the_posterior_of_ddpm() -> None:
    """Ho et al. 2020, eq. 7, for t = 501 from 481: mean and variance of x' given x and x0."""
    t, t_prev = torch.tensor([501]), torch.tensor([481])
    x, eps = 0.3, -0.7
    now, then = SCHEDULE[501].item(), SCHEDULE[481].item()
    alpha = now / then
    x0 = (x - (1 - now) ** 0.5 * eps) / now**0.5
    mean = then**0.5 * (1 - alpha) / (1 - now) * x0 + alpha**0.5 * (1 - then) / (1 - now) * x
    a, b, s = Diffusion(SCHEDULE, "epsilon").coefficients(t, t_prev, 1.0)
    assert (a * x + b * eps).item() == pytest.approx(mean, rel=1e-9) == pytest.approx(0.3923684446884977)
    assert s.item() ** 2 == pytest.approx((1 - then) / (1 - now) * (1 - alpha))


@pytest.mark.parametrize("noise", [0.0, 0.4, 1.0])
def test_a_move_by_v_is_the_move_by_eps_that_it_stands_for(noise: float) -> None:
    by_eps, by_v = (Diffusion(SCHEDULE, kind) for kind in ("epsilon", "v_prediction"))
    x, v = tensors()[:2]
    t, t_prev = torch.tensor([999, 700, 500, 21, 1]), torch.tensor([979, 690, 3, 1, -19])
    _, eps = by_v.split(v.double(), x.double(), t)
    for one, two in zip(
        transition(by_v, v.double(), x.double(), t, t_prev, noise),
        transition(by_eps, eps, x.double(), t, t_prev, noise),
        strict=True,
    ):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_deterministic_step_is_the_move_without_noise(prediction: str) -> None:
    """Diffusion's to 1e-6 of the values, which are computed in another order; flow's to the bit."""
    x, out, _ = tensors()
    for times in ((981, 961), (501, 481), (1, -19)):
        ours = process(prediction)
        mean, std = transition(ours, out, x, *(torch.full((5,), time) for time in times), 0.0)
        scale = max(1.0, ours.step(out, x, *times).abs().max().item())
        torch.testing.assert_close(ours.step(out, x, *times), mean, rtol=0, atol=1e-6 * scale)
        assert not std.any()
    flow = Flow(1000, 3.0)
    mean, std = transition(flow, out, x, torch.full((5,), 0.75), torch.full((5,), 0.5), 0.0)
    assert torch.equal(flow.step(out, x, 0.75, 0.5), mean) and not std.any()


def test_times_between_timesteps_and_beyond() -> None:
    """sigma / alpha of 10.5 is half-way between those of 10 and 11; below 0 it's timestep 0's; CLEAN has none."""
    alpha, sigma = Diffusion(SCHEDULE, "epsilon").levels(torch.tensor([10.0, 10.5, 11.0, 0.0, -19.0, CLEAN]))
    ratio = (sigma / alpha).tolist()
    assert ratio[1] == pytest.approx((ratio[0] + ratio[2]) / 2)
    assert ratio[3] == ratio[4] > 0
    assert (alpha[5].item(), sigma[5].item()) == (1.0, 0.0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(6, dtype=torch.float64))


def test_a_zero_snr_schedule_is_diffusers() -> None:
    found = zero_terminal_snr(process().alpha_bar)
    assert found[-1] == 0 and found[0] == process().alpha_bar[0]
    expected = DDIMScheduler(1000, beta_schedule="scaled_linear", rescale_betas_zero_snr=True, **SD15).alphas_cumprod
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_schedule_without_signal_needs_v() -> None:
    """From pure noise eps says nothing of x0; v does: it is -x0 there."""
    with pytest.raises(ValueError, match="expected v_prediction"):
        Diffusion(zero_terminal_snr(process().alpha_bar), "epsilon")
    exact = Diffusion(zero_terminal_snr(process().alpha_bar), "v_prediction")
    a, b, s = exact.coefficients(torch.tensor([999]), torch.tensor([-19]), 0.0)
    x0, eps = exact.split(torch.tensor([[[[-0.5]]]]), torch.tensor([[[[2.0]]]]), torch.tensor([999]))
    assert (x0.item(), eps.item(), s.item()) == (0.5, 2.0, 0.0)
    expected = exact.alpha_bar[0].sqrt() * 0.5 + (1 - exact.alpha_bar[0]).sqrt() * 2
    assert (a * 2 - b * 0.5).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("form", "noise", "times", "expected"),
    [
        ("sde", 0.7, (0.5, 0.4), (0.951, -0.1245, 0.2213594362)),
        ("sde", 0.7, (0.1, 0.0), (0.9727777778, -0.1245, 0.0737864787)),
        # 1 - t is 1 - t_prev = 0.2: s^2 = 0.49 * 5 * 0.2, drift 0.49 * 5 / 2
        ("sde", 0.7, (1.0, 0.8), (0.755, -0.2, 0.7)),
        # drift 0.09 / (2 * 0.5) = 0.09
        ("dance", 0.3, (0.5, 0.4), (0.991, -0.1045, 0.3 * 0.1**0.5)),
        # s = 0.4 sin 30 deg = 0.2, k = 0.4 cos 30 deg
        ("cps", 1 / 3, (0.5, 0.4), (0.6 + 0.12**0.5, 0.5 * 0.12**0.5 - 0.3, 0.2)),
    ],
)
def test_flow_coefficients(
    form: FlowNoise, noise: float, times: tuple[float, float], expected: tuple[float, float, float]
) -> None:
    t, t_prev = (torch.tensor([time], dtype=torch.float64) for time in times)
    found = [v.item() for v in Flow(1000, 3.0, form).coefficients(t, t_prev, noise)]
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("form", ["sde", "dance", "cps"])
def test_without_noise_every_flow_sampler_is_eulers(form: FlowNoise) -> None:
    t, t_prev = torch.tensor([1.0, 0.5, 0.25]).double(), torch.tensor([0.75, 0.25, 0.0]).double()
    a, b, s = Flow(1000, 3.0, form).coefficients(t, t_prev, 0.0)
    torch.testing.assert_close(a, torch.ones_like(a))
    torch.testing.assert_close(b, t_prev - t)
    assert not s.any()


def test_cps_keeps_the_amount_of_noise() -> None:
    """Given exact x0 and eps, x' = (1 - t') x0 + k eps + s z with k^2 + s^2 = t'^2."""
    t, t_prev = torch.tensor([0.5]).double(), torch.tensor([0.4]).double()
    a, b, s = Flow(1000, 3.0, "cps").coefficients(t, t_prev, 0.8)
    of_x0, of_eps = a * (1 - t) - b, a * t + b  # x = (1 - t) x0 + t eps, v = eps - x0
    assert of_x0.item() == pytest.approx(0.6)
    assert (of_eps**2 + s**2).item() == pytest.approx(0.4**2)


@pytest.mark.parametrize(
    ("form", "noise", "finals"),
    [
        ("sde", 0.0, (0.742, 0.862, 0.971, 0.997)),
        ("sde", 0.7, (0.920, 0.966, 1.0016, 1.0037)),
        ("dance", 0.3, (0.780, 0.883, 0.975, 0.9975)),
        ("cps", 0.7, (0.548, 0.621, 0.695, 0.721)),
    ],
)
def test_which_flow_samplers_keep_the_datas_variance(form: FlowNoise, noise: float, finals: tuple[float, ...]) -> None:
    """Data N(0, 1/4), whose velocity is c x, c = (t - (1 - t) / 4) / ((1 - t)^2 / 4 + t^2) exactly: the variance goes
    through var' = (a + b c)^2 var + s^2. At the end, over 1/4, for 10, 20, 100, 1000 even steps. The SDEs approach 1;
    CPS, whose noise doesn't shrink with the step, doesn't.
    """
    for steps, expected in zip((10, 20, 100, 1000), finals, strict=True):
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        t, t_prev = times[:-1], times[1:]
        a, b, s = Flow(1000, 1.0, form).coefficients(t, t_prev, noise)
        c = (t - (1 - t) / 4) / ((1 - t) ** 2 / 4 + t**2)
        variance = 1.0
        for gain, added in zip((a + b * c) ** 2, s**2, strict=True):
            variance = gain.item() * variance + added.item()
        assert variance / 0.25 == pytest.approx(expected, abs=6e-4)


def test_ddims_variance_at_any_eta() -> None:
    """Of data N(0, 1/4), x_t has variance alpha^2 / 4 + sigma^2 and eps = sigma x / that exactly. From that variance at
    the first time to the last, over that at the last, in 10, 20, 50, 500 steps.
    """
    found = {0.0: (0.653, 0.799, 0.910, 0.990), 1.0: (0.521, 0.675, 0.821, 0.971)}
    exact = Diffusion(SCHEDULE, "epsilon")
    for eta, finals in found.items():
        for steps, expected in zip((10, 20, 50, 500), finals, strict=True):
            t = torch.tensor([i * (1000 // steps) + 1 for i in reversed(range(steps))])
            a, b, s = exact.coefficients(t, t - 1000 // steps, eta)
            alpha, sigma = exact.levels(t)
            exact_variance = alpha**2 / 4 + sigma**2
            c, variance = sigma / exact_variance, exact_variance[0].item()
            for gain, added in zip((a + b * c) ** 2, s**2, strict=True):
                variance = gain.item() * variance + added.item()
            end = (exact.alpha_bar[0] / 4 + 1 - exact.alpha_bar[0]).item()
            assert variance / end == pytest.approx(expected, abs=6e-4)
