"""Flags prompts that have one of the words in a file."""

import re
from collections.abc import Callable
from pathlib import Path

from diffalign.core.errors import UserError


def load(path: Path) -> Callable[[str], bool]:
    """Returns the function that tells whether a prompt has one of the words or phrases in a file.

    One a line, whole words, whatever their case and spacing; `#` begins a comment. UserError where there are none.
    """
    try:
        lines = [line.split("#")[0].split() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a text file with a word or phrase a line, found {error}") from None
    phrases = [r"\s+".join(map(re.escape, words)) for words in lines if words]
    if not phrases:
        raise UserError(f"{path}: expected a word or phrase a line, found none")
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(phrases)})(?!\w)", re.IGNORECASE)
    return lambda prompt: pattern.search(prompt) is not None
