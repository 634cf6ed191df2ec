"""The hash of a stage's code: what computes enters, words don't."""

from pathlib import Path

import pytest

from diffalign.core import code

SOURCE = '''"""Adds numbers."""

LIMIT = 3
"""Of what is added."""


class Adder:
    """Adds."""

    def add(self, a: int, b: int = 2) -> int:
        """Returns the sum."""
        # quickly
        return a + b
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Adds numbers.", "Adds whole numbers."),
        ("        # quickly\n", "        # slowly\n\n"),
        ("Of what is added.", "The most that is added."),
        ("Returns the sum.", "Returns a sum."),
        ("a + b", "(a  +  b)"),
    ],
)
def test_words_and_layout_dont_enter(old: str, new: str) -> None:
    assert old in SOURCE
    assert code.without_words(SOURCE.replace(old, new)) == code.without_words(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"), [("LIMIT = 3", "LIMIT = 4"), ("b: int = 2", "b: int = 1"), ("a + b", "a - b"), ("add(", "sum(")]
)
def test_what_computes_enters(old: str, new: str) -> None:
    assert code.without_words(SOURCE.replace(old, new)) != code.without_words(SOURCE)


def test_a_docstring_more_or_less_is_another_layout_only() -> None:
    """A body that is a docstring alone stays valid, and one that got its first docstring has one statement more."""
    assert code.without_words('def f() -> None:\n    """Does nothing."""\n') == code.without_words(
        "def f() -> None:\n    pass\n"
    )
    assert code.without_words(SOURCE.replace('        """Returns the sum."""\n', "")) == code.without_words(SOURCE)


DVC = """
stages:
  train:
    foreach: ${policies}
    do:
      cmd: x
      deps: [data/shards, "${item.init}", diffalign/core, "diffalign/methods/${item.method}.py", stages/train.py]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of a few files, one stage and data beside them."""
    monkeypatch.setattr(code, "ROOT", tmp_path)
    monkeypatch.setattr(code, "LIBRARY", tmp_path)
    (tmp_path / "dvc.yaml").write_text(DVC)
    for name in ("diffalign/core/files", "diffalign/methods/dpo", "diffalign/methods/kto", "stages/train", "model/x"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    return tmp_path


def changes(folder: Path, file: str, text: str, **chosen: str) -> bool:
    """Whether an edit of a file changes the hash of train's code."""
    named = {name.replace("__", "."): value for name, value in chosen.items()}
    before = code.code_hash("train", named)
    path = folder / file
    path.write_text(text)
    return code.code_hash("train", named) != before


def test_files_folders_and_templates_of_dvc_yaml_enter(project: Path) -> None:
    assert changes(project, "stages/train.py", "x = 2\n")
    assert changes(project, "diffalign/core/files.py", "x = 2\n")
    assert changes(project, "diffalign/core/new.py", "x = 2\n")
    assert changes(project, "diffalign/methods/dpo.py", "x = 2\n", item__method="dpo")
    assert not changes(project, "diffalign/methods/kto.py", "x = 2\n", item__method="dpo")
    assert changes(project, "diffalign/methods/kto.py", "x = 3\n"), "a template that isn't filled in means all files"
    assert not changes(project, "model/x.py", "x = 2\n"), "data, whatever it's called"
    assert not changes(project, "stages/train.py", "# a comment\nx = 2\n")


def test_modules_reach_what_they_import_of_a_stages_code(project: Path) -> None:
    """dpo imports files, which names a worker; kto isn't reached, nor what the stage doesn't depend on."""
    (project / "diffalign/methods/dpo.py").write_text("from diffalign.core import files, errors\n")
    (project / "diffalign/core/files.py").write_text('WORKER = "stages.train"\n')

    def reached() -> str:
        return code.reached_hash(["diffalign.methods.dpo"], code.files_of("train", {"item.method": "*"}) or set())

    hashes = [reached()]
    for file in ("diffalign/methods/kto.py", "model/x.py", "stages/train.py", "diffalign/core/files.py"):
        (project / file).write_text('WORKER = "stages.train"\nx = 2\n')
        hashes.append(reached())
    assert [a != b for a, b in zip(hashes, hashes[1:], strict=False)] == [False, False, True, True]


def test_what_is_no_stage_is_all_that_is_loaded() -> None:
    assert code.code_hash("pretrain") == code.code_hash("pretrain") != code.code_hash("ingest")
