"""What is in the slots of rollouts: functions of seed, rollout and slot alone."""

from dataclasses import replace

import pytest
import torch

from diffalign.rollouts.slots import Places

PLACES = Places(
    seed=1,
    prompts=5,
    batch_size=8,
    per_prompt=2,
    updates=3,
    micro_batch_size=4,
    shared_noise=False,
    rank=0,
    world=1,
)


def everything(places: Places, rollout: int) -> list[tuple[object, ...]]:
    """All that is drawn for a rank's slots, by slot."""
    found = []
    for update in range(places.updates):
        for piece in places.pieces(rollout, update):
            for slot in piece:
                drawn = places.start(rollout, slot, (1, 2, 2)), places.added(rollout, slot, 1, (1, 2, 2))
                moves = places.chosen(rollout, slot, list(range(6)), 3)
                found.append((slot, *(tensor.flatten().tolist() for tensor in drawn), moves))
    return found


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_draws_do_not_depend_on_processes_or_micro_batches(micro: int) -> None:
    one = everything(PLACES, 2)
    ranks = [everything(replace(PLACES, world=2, rank=rank, micro_batch_size=micro), 2) for rank in (0, 1)]
    assert sorted(map(repr, one)) == sorted(map(repr, ranks[0] + ranks[1]))
    assert [item[0].index for item in ranks[1]][:4] == [4, 5, 6, 7]  # type: ignore[attr-defined]


@pytest.mark.parametrize("updates", [1, 2])
def test_draws_do_not_depend_on_the_updates_of_a_rollout(updates: int) -> None:
    """A slot's noise and moves are its number's in the rollout; and as many pictures have the same prompts."""
    fewer, more = replace(PLACES, updates=updates), replace(PLACES, updates=4)
    for rollout in (0, 2):
        drawn = [[item[1:] for item in everything(places, rollout)] for places in (fewer, more)]
        assert len(drawn[0]) == 8 * updates
        assert drawn[0] == drawn[1][: 8 * updates]
    whose = [[places.slot(*divmod(i, places.updates * 8)).prompt for i in range(64)] for places in (fewer, more)]
    assert whose[0] == whose[1]


def test_pieces_begin_at_multiples_of_the_micro_batch() -> None:
    cut = [[slot.index for slot in piece] for piece in replace(PLACES, micro_batch_size=3).pieces(0, 1)]
    assert cut == [[8, 9, 10], [11, 12, 13], [14, 15]]


def test_groups_go_through_all_prompts() -> None:
    """Twelve groups a rollout over five prompts: after five rollouts each has had its turn twelve times."""
    every = [PLACES.slot(rollout, index) for rollout in range(5) for index in range(24)]
    prompts = [slot.prompt for slot in every[::2]]
    assert [prompts.count(prompt) for prompt in range(5)] == [12] * 5
    assert all(every[i].prompt == every[i + 1].prompt for i in range(0, len(every), 2))
    assert sorted(prompts[:5]) == sorted(prompts[5:10]) != prompts[:5]


def test_a_prompts_pictures_share_their_noise_where_asked() -> None:
    a, b, c = (PLACES.slot(0, index) for index in (0, 1, 2))
    shared = replace(PLACES, shared_noise=True)
    noise = [places.start(0, slot, (1, 2, 2)) for places in (PLACES, shared) for slot in (a, b, c)]
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(noise[3], noise[4])
    assert not torch.equal(noise[4], noise[5])
