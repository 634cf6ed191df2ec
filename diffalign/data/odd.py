"""Says of small or odd data what a user should know before believing a training on it, as pure functions of counts."""

FEWEST_TEST_PROMPTS = 30
"""A win rate of 70% over 30 prompts is 51% to 84% at 95% confidence (Wilson); over fewer it tells nothing from half."""
MOST_EPOCHS = 20
FEWEST_ANSWERS = 10
"""Of untied answers, before one side's winning them all is odd."""


def of_data(
    test_prompts: int, validation_prompts: int, comparisons: int, ties: int, raters: int, unnamed: int, sides: list[int]
) -> list[str]:
    """Returns what is small or odd in comparisons: few held-out prompts, one rater, ties, one side always winning.

    `raters` are those who are named, `unnamed` the comparisons of others; `sides` are the untied answers that the first
    and the second image won.
    """
    found = []
    if test_prompts < FEWEST_TEST_PROMPTS:
        found.append(
            f"the test split has {test_prompts} prompts: with fewer than {FEWEST_TEST_PROMPTS} a win rate says little. "
            "Raise data.test, or add prompts to generate.prompts"
        )
    if not validation_prompts:
        found.append("the validation split has no prompts: probes have nothing to look at. Raise data.validation")
    if raters == 1 and not unnamed:
        found.append("one rater gave all answers: what a policy learns is that rater's taste")
    if 2 * ties > comparisons:
        found.append(f"{ties:,} of {comparisons:,} comparisons are ties: pairs.ties says what becomes of them")
    if sum(sides) >= FEWEST_ANSWERS and 0 in sides:
        winner = "first" if sides[0] else "second"
        found.append(
            f"the {winner} image won all {sum(sides):,} untied answers: right if the source puts winners there, else "
            "the side decided"
        )
    return found


def of_training(count: int, batch_size: int, steps: int, kind: str = "pairs") -> list[str]:
    """Returns what is odd in a training on so many pairs, or images: a batch larger than the data, many epochs."""
    found, epochs = [], batch_size * steps / max(count, 1)
    if batch_size > count:
        found.append(
            f"a batch of {batch_size:,} is larger than the {count:,} {kind} there are: a step sees {kind} again"
        )
    if epochs > MOST_EPOCHS:
        fewer = max(MOST_EPOCHS * count // batch_size, 1)
        found.append(
            f"each of {count:,} {kind} is seen {epochs:,.0f} times, more than {MOST_EPOCHS}: few {kind} are learned by "
            f"heart (docs/training.md); {fewer:,} steps are {MOST_EPOCHS} times"
        )
    return found
