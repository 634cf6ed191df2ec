"""A rater's plan: a function of (seed, rater), sides balanced, repeats swapped and later, checks in every stretch."""

from collections import Counter
from dataclasses import replace

import pytest

from arena import plan as plans
from arena.plan import Image, Pair, Settings, plan
from diffalign.data.votes import FEWEST_CHECKS

SETTINGS = Settings(seed=0, questions=("overall", "appeal", "alignment"), limit=60)
NOISE = [Image("0" * 64, None)]
PAIRS = [Pair(f"p{n}", f"prompt {n % 90}", n, (Image(f"x{n}", "base"), Image(f"y{n}", "dpo"))) for n in range(180)]


def kinds(tasks):
    return Counter(task.kind for task in tasks)


def test_a_plan_is_a_function_of_seed_and_rater():
    one = plan(PAIRS, NOISE, "r1", SETTINGS)
    assert plan(list(reversed(PAIRS)), NOISE, "r1", SETTINGS)[0].pair_id == one[0].pair_id
    assert plan(PAIRS, NOISE, "r1", SETTINGS) == one
    assert plan(PAIRS, NOISE, "r2", SETTINGS) != one
    assert plan(PAIRS, NOISE, "r1", replace(SETTINGS, seed=1)) != one


def test_the_parts_of_a_plan():
    """60 pairs, a tenth of them again, a check in every ten: of these each second one is about the prompt."""
    tasks = plan(PAIRS, NOISE, "r1", SETTINGS)
    assert kinds(tasks) == {"pair": 60, "repeat": 6, "noise": 3, "prompt": 3}
    pairs = [task for task in tasks if task.kind == "pair"]
    assert len({task.pair_id for task in pairs}) == 60
    assert len({(task.pair_id, task.kind) for task in tasks}) == len(tasks)
    assert all(task.questions == SETTINGS.questions for task in tasks if task.kind != "prompt")


def test_few_pairs_have_as_many_checks_as_the_rule_needs():
    assert [kinds(plan(PAIRS[:n], NOISE, "r1", SETTINGS))["noise"] for n in (1, 2, 3)] == [1, 1, 2]
    tasks = plan(PAIRS[:12], NOISE, "r1", replace(SETTINGS, questions=("overall",)))
    assert kinds(tasks) == {"pair": 12, "repeat": 1, "noise": FEWEST_CHECKS}


def test_every_rater_gets_the_shared_pairs():
    plans_ = [{t.pair_id for t in plan(PAIRS, NOISE, f"r{n}", SETTINGS) if t.kind == "pair"} for n in range(5)]
    assert len(set.intersection(*plans_)) >= SETTINGS.shared
    early = plan(PAIRS, NOISE, "r9", replace(SETTINGS, limit=2 * SETTINGS.shared))
    assert set.intersection(*plans_) <= {task.pair_id for task in early}


def test_sides_are_at_random():
    """Of 1,200 first showings half have the first policy on the left: 3.3 standard deviations are 0.048."""
    lefts = [
        task.left.model == "base"
        for n in range(20)
        for task in plan(PAIRS, NOISE, f"r{n}", SETTINGS)
        if task.kind == "pair"
    ]
    assert abs(sum(lefts) / len(lefts) - 0.5) < 0.048
    sides = {
        task.left.model for n in range(20) for task in plan(PAIRS[:1], NOISE, f"r{n}", SETTINGS) if task.kind == "pair"
    }
    assert sides == {"base", "dpo"}


def test_repeats_come_later_with_sides_swapped():
    for rater in ("r1", "r2", "r3"):
        tasks = plan(PAIRS, NOISE, rater, SETTINGS)
        first = {task.pair_id: (place, task) for place, task in enumerate(tasks) if task.kind == "pair"}
        for place, task in enumerate(tasks):
            if task.kind == "repeat":
                before, one = first[task.pair_id]
                assert (task.left, task.right) == (one.right, one.left)
                assert place > before + min(SETTINGS.lag, len(PAIRS)) or before >= 60 - SETTINGS.lag


def test_checks_expect_the_image_of_the_prompt():
    images = {image: pair.prompt for pair in PAIRS for image in pair.images}
    for task in (task for n in range(10) for task in plan(PAIRS, NOISE, f"r{n}", SETTINGS)):
        assert (task.expected is None) == (task.kind in ("pair", "repeat"))
        if task.expected is None:
            continue
        right_one, wrong_one = (task.left, task.right) if task.expected == "a" else (task.right, task.left)
        assert images[right_one] == task.prompt
        assert wrong_one in NOISE if task.kind == "noise" else images[wrong_one] != task.prompt
        assert task.kind == "noise" or task.questions == ("alignment",)


@pytest.mark.parametrize(("questions", "pairs"), [(("overall",), PAIRS), (SETTINGS.questions, PAIRS[:1])])
def test_without_another_prompt_or_its_question_all_checks_are_noise(questions, pairs):
    found = kinds(plan(pairs, NOISE, "r1", replace(SETTINGS, questions=questions)))
    assert found["prompt"] == 0 and found["noise"] >= 1


def test_pairs_are_of_every_two_policies_and_not_of_equal_images():
    slots = [("a", 0, {"z": "1", "b": "2", "m": "3"}), ("b", 0, {"z": "4", "b": "4", "m": "5"})]
    found = plans.pairs_of(["z", "b", "m"], iter(slots))
    assert [[image.model for image in pair.images] for pair in found] == [
        ["b", "m"], ["b", "z"], ["m", "z"], ["b", "m"], ["m", "z"]
    ]  # fmt: skip
    assert len({pair.pair_id for pair in found}) == 5
    assert plans.pairs_of(["m", "z", "b"], iter(slots)) == found
