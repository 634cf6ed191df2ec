"""The score that means nothing: the same for equal images, by chance for others, and no number without pixels."""

import torch

from diffalign.rewards import reward as rewards


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_it_is_the_images_alone() -> None:
    placebo, some = rewards.load("placebo", {}, "cpu"), images(2000)
    scores = placebo(some, ["a"] * len(some))
    assert torch.equal(scores, placebo(some, ["b"] * len(some)))
    assert torch.equal(scores[5:6], placebo(some[5:6], ["a"]))
    assert ((scores >= 0) & (scores < 1)).all() and len(set(scores.tolist())) == len(some)
    # Uniform: the mean within four standard errors, and no order by how bright images are.
    assert abs(scores.mean().item() - 0.5) < 4 * (1 / 12 / len(some)) ** 0.5
    bright = some.mean(dim=(1, 2, 3)).double()
    assert abs(torch.corrcoef(torch.stack([scores, bright]))[0, 1]) < 4 / len(some) ** 0.5


def test_a_pixel_makes_another_score_and_one_that_isnt_finite_none() -> None:
    placebo, some = rewards.load("placebo", {}, "cpu"), images(2)
    other = some.clone()
    other[0, 0, 0, 0] = -other[0, 0, 0, 0]
    other[1, 1, 2, 3] = float("inf")
    before, after = placebo(some, ["", ""]), placebo(other, ["", ""])
    assert after[0] != before[0] and after[1].isnan()
