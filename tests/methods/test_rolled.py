"""What a rollout's pictures are compared by, by hand: one reward, and several of unlike scales."""

import torch

from diffalign.methods.rolled import combined

NAN = float("nan")


def total(rewards: list[list[float]], *weights: float) -> torch.Tensor:
    return combined(torch.tensor(rewards, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64))


def test_one_reward_stays_in_its_unit_to_the_bit() -> None:
    assert total([[0.1], [NAN], [0.3]], -0.7).nan_to_num(9.0).tolist() == [0.1 * -0.7, 9.0, 0.3 * -0.7]


def test_several_count_by_their_weights_whatever_their_units() -> None:
    """Each column is -1 or 1 once it's standardised: a kilobyte and a byte are the same, and so are two offsets."""
    small = [[0.0, 5.0], [0.0, 7.0], [1.0, 5.0], [1.0, 7.0]]
    expected = torch.tensor([-3.0, 1.0, -1.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(total(small, 1.0, 2.0), expected, rtol=1e-5, atol=1e-5)
    large = [[a, 1000 * b] for a, b in small]
    torch.testing.assert_close(total(large, 1.0, 2.0), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(total(large, 1.0, -2.0), expected[[1, 0, 3, 2]], rtol=1e-5, atol=1e-5)


def test_a_constant_one_counts_nothing_and_a_missing_one_leaves_the_picture_out() -> None:
    """The last picture's first reward, 9, is in no statistic: its second one is missing."""
    found = total([[0.0, 0.1], [2.0, 0.1], [9.0, NAN]], 1.0, 100.0)
    torch.testing.assert_close(found[:2], torch.tensor([-1.0, 1.0], dtype=torch.float64), rtol=1e-5, atol=0)
    assert bool(found[2].isnan())
