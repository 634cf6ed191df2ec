"""Draws are functions of where they are used, well distributed, and paired as the paper pairs them."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffalign.diffusion.process import Diffusion, scaled_linear
from diffalign.diffusion.rng import NOISE, TRAIN, generator, normal, pair_draw, pair_index, text_seed
from diffalign.diffusion.timesteps import Times

SHAPE = (4, 8, 8)
TIMES = Times(Diffusion(scaled_linear(0.00085, 0.012, 1000), "epsilon"))


def draw(seed: int = 0, step: int = 0, slot: int = 0, flip: str = "none", drop: float = 0.2, times=TIMES):  # type: ignore[no-untyped-def]
    return pair_draw(seed, step, slot, SHAPE, times, flip, drop)


def test_a_draw_is_a_function_of_seed_step_and_slot() -> None:
    first, again = draw(1, 2, 3), draw(1, 2, 3)
    assert first.t == again.t
    assert torch.equal(first.eps, again.eps)
    for other in (draw(0, 2, 3), draw(1, 3, 3), draw(1, 2, 4)):
        assert not torch.equal(first.eps, other.eps)


def test_a_texts_seed_is_the_beginning_of_its_hash() -> None:
    """FIPS 180-2, B.1: SHA-256 of abc is ba7816bf 8f01cfea ...; kept results stand on these integers."""
    assert text_seed("abc") == 0xBA7816BF8F01CFEA
    assert text_seed("été") == int.from_bytes(hashlib.sha256("été".encode()).digest()[:8], "big")


def test_posterior_noise_is_not_the_diffusion_noise() -> None:
    one = draw()
    assert not torch.equal(one.eps, one.posterior_w)
    assert not torch.equal(one.posterior_w, one.posterior_l)


def test_flips_and_drops() -> None:
    paired = [draw(slot=i, flip="pair") for i in range(200)]
    assert all(d.flip_w == d.flip_l for d in paired)
    assert 60 < sum(d.flip_w for d in paired) < 140
    independent = [draw(slot=i, flip="independent") for i in range(200)]
    assert 60 < sum(d.flip_w != d.flip_l for d in independent) < 140
    assert not any(d.flip_w or d.flip_l for d in (draw(slot=i) for i in range(50)))
    assert 15 < sum(draw(slot=i, drop=0.2).drop for i in range(200)) < 70
    assert not any(draw(slot=i, drop=0).drop for i in range(50))
    assert all(draw(slot=i, drop=1).drop for i in range(50))


def test_the_choice_of_flip_changes_nothing_else() -> None:
    assert torch.equal(draw(flip="none").eps, draw(flip="independent").eps)


def test_timesteps_are_uniform() -> None:
    t = np.array([draw(slot=i).t for i in range(2000)])
    assert t.min() >= 0
    assert t.max() <= 999
    assert t.mean() == pytest.approx(499.5, abs=25)  # four standard errors


def test_timesteps_keep_to_their_range() -> None:
    t = np.array([draw(slot=i, times=replace(TIMES, low=0.4, high=0.42)).t for i in range(500)])
    assert set(t.tolist()) == set(range(400, 420))


def test_noise_is_standard_normal() -> None:
    noise = normal(generator(NOISE, 0), (100_000,))
    assert noise.dtype == torch.float32
    assert noise.mean().abs() < 0.015
    assert noise.std().item() == pytest.approx(1, abs=0.01)


def test_streams_are_apart() -> None:
    assert generator(TRAIN, 0, 1).random() != generator(NOISE, 0, 1).random()


def test_an_epoch_sees_every_pair_once_and_epochs_differ() -> None:
    """10 pairs in batches of 4: steps 0, 1 and half of 2 are the first epoch, then the second begins in mid-batch."""
    order = [pair_index(0, step, slot, 4, 10) for step in range(5) for slot in range(4)]
    assert sorted(order[:10]) == list(range(10))
    assert sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]


def test_a_batch_larger_than_the_data() -> None:
    order = [pair_index(0, 0, slot, 32, 3) for slot in range(32)]
    assert all(sorted(order[i : i + 3]) == [0, 1, 2] for i in range(0, 30, 3))
