"""Role prompts from templates are a set that generate reads."""

from pathlib import Path

import pytest

from diffalign.core.errors import UserError
from diffalign.data.prompts import own
from tools.role_prompts import lines


def test_each_role_stands_in_each_template(tmp_path: Path) -> None:
    file = tmp_path / "roles.tsv"
    file.write_text("\n".join(lines(["a photo of a {}", "a {} at work"], ["nurse", "pilot"])) + "\n")
    assert [(prompt.text, prompt.category) for prompt in own.read(file)] == [
        ("a photo of a nurse", "nurse"),
        ("a photo of a pilot", "pilot"),
        ("a nurse at work", "nurse"),
        ("a pilot at work", "pilot"),
    ]
    with pytest.raises(UserError, match="where the role stands"):
        list(lines(["a photo of a nurse"], ["pilot"]))
