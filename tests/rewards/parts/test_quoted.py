"""Quoted words of prompts, edit distances by hand, and the published reward's formula."""

import pytest

from diffalign.rewards.parts import quoted


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ('a shop with the sign "Open Late"', ["openlate"]),
        ("a mug that says “Hello”", ["hello"]),
        ('"A" and "b c"', ["a", "bc"]),
        ("A storefront with 'Hello World' written on it.", ["helloworld"]),
        ("a shirt that says ‘Diffusion’, and 'Go'.", ["diffusion", "go"]),
        ("a sign: 'Don't walk', another: ‘It’s on’", ["don'twalk", "it’son"]),
        ("'Say \"hi\"'", ["hi"]),
        ("the cat's bowl", []),
        ("the dogs' bowls and the cats' toys don't match; '80s cars, rock 'n' roll", []),
        ("the dog’s bowls and the cats’ toys", []),
        ('an empty "" or blank "  " sign', []),
        ('one lonely " mark', []),
    ],
)
def test_words_between_quotes(prompt: str, expected: list[str]) -> None:
    assert quoted.words(prompt) == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2), ("same", "same", 0)],
)
def test_edit_distances_by_hand(a: str, b: str, expected: int) -> None:
    assert quoted.edits(a, b) == quoted.edits(b, a) == expected


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        ("Hello", 1),
        ("say HEL LO now", 1),  # contained, whatever stands around it, its case and its white space
        ("helo", 1 - 1 / 5),
        ("hxlxo", 1 - 2 / 5),
        ("", 0),
        ("something else entirely", 0),  # the distance is the word's length at most
    ],
)
def test_one_word_is_scored_as_published(read: str, expected: float) -> None:
    assert quoted.agreement(["hello"], read) == pytest.approx(expected)


def test_of_several_words_what_is_found_is_taken_out() -> None:
    """worl lacks one letter of ten in all; a word that is wanted twice must be there twice."""
    assert quoted.agreement(["hello", "world"], "worl Hello") == pytest.approx(1 - 1 / 10)
    assert quoted.agreement(["hi", "hi"], "hi") == pytest.approx(1 / 2)
    assert quoted.agreement(["hi", "hi"], "hi hi") == 1
