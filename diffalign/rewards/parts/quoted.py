"""The words that a prompt quotes, and how near a text that was read from the image comes to them."""

import re
from collections.abc import Sequence

QUOTED = re.compile(
    r"""
    "([^"]*)" | “([^”]*)”
    | (?<!\w)'(?!\s|n'\s)((?:[^'"“”]|(?<=\w)'(?=\w))*)(?<!\s)'(?!\w)    # not dogs', nor rock 'n' roll
    | ‘((?:[^‘’"“”]|(?<=\w)’(?=\w))*)’(?!\w)                            # ’ within a word is an apostrophe
    """,
    re.VERBOSE,
)


def words(prompt: str) -> list[str]:
    """Returns what stands between quotes in a prompt, as `plain` has it; none is empty.

    Quotes are double or single, straight or curly; single ones stand at words' ends, so that apostrophes are none.
    """
    found = (plain("".join(groups)) for groups in QUOTED.findall(prompt))
    return [word for word in found if word]


def plain(text: str) -> str:
    """Returns a text in lower case without white space, as the published reward compares texts."""
    return "".join(text.split()).lower()


def agreement(wanted: Sequence[str], read: str) -> float:
    """Returns 1 - distance / length, 0 to 1, of quoted words, one at least, and the text that was read.

    Flow-GRPO's reward (Liu et al. 2025, arXiv 2505.05470) for one word: a word that the text contains has distance 0;
    another has its edit distance to the whole text, its own length at most. Of several words, the longest is looked for
    first, what is found is taken out of the text, and distances and lengths are summed.
    """
    rest, distance = plain(read), 0
    missing = []
    for word in sorted(wanted, key=len, reverse=True):
        if word in rest:
            rest = rest.replace(word, "", 1)
        else:
            missing.append(word)
    for word in missing:
        distance += min(edits(word, rest), len(word))
    return 1 - distance / sum(len(word) for word in wanted)


def edits(a: str, b: str) -> int:
    """Returns Levenshtein's distance: the fewest insertions, deletions and replacements that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (left != right))
    return row[-1]
