"""The code that a stage depends on is found from its imports and written into dvc.yaml."""

import shutil
from pathlib import Path

import pytest
import yaml

from tools import closure

FILES = {
    "stages/__init__.py": "",
    "stages/one.py": """
from typing import TYPE_CHECKING
import diffalign.plain
from diffalign import said
from diffalign.package import thing
from diffalign.methods import method
if TYPE_CHECKING:
    from diffalign.checked import X
else:
    import diffalign.otherwise
def run():
    from diffalign.late import f
""",
    "diffalign/__init__.py": '"""A docstring."""',
    "diffalign/core/__init__.py": "",
    "diffalign/core/axes.py": "",
    "diffalign/core/progress.py": "import diffalign.only_progress",
    "diffalign/only_progress.py": "x = 1",
    "diffalign/plain.py": "import torch\nfrom diffalign.core import progress",
    "diffalign/said.py": "x = 'diffalign.prose is no module here, nor is this sentence one'",
    "diffalign/package/__init__.py": "LAZY = 'diffalign.package.lazy'",
    "diffalign/package/thing.py": "from . import sibling\nfrom ..up import g",
    "diffalign/package/lazy.py": "x = 1",
    "diffalign/package/sibling.py": "x = 1",
    "diffalign/package/unused.py": "x = 1",
    "diffalign/up.py": "import stages.one",
    "diffalign/late.py": "x = 1",
    "diffalign/checked.py": "x = 1",
    "diffalign/otherwise.py": "from diffalign.whole import one, two",
    "diffalign/prose.py": "x = 1",
    "diffalign/whole/__init__.py": '"""A docstring."""',
    "diffalign/whole/one.py": "x = 1",
    "diffalign/whole/two.py": "x = 1",
    "diffalign/methods/__init__.py": "",
    "diffalign/methods/method.py": "from diffalign.core import axes\ndef load(x): axes.load('diffalign.methods', x)",
    "diffalign/methods/helper.py": "x = 1",
    "diffalign/methods/first.py": "from diffalign.methods import helper\ndef load(): pass",
    "diffalign/methods/second.py": "import diffalign.loss\ndef load(): pass",
    "diffalign/loss.py": "x = 1",
}
ALWAYS = [
    "diffalign/late.py",
    "diffalign/loss.py",
    "diffalign/otherwise.py",
    "diffalign/package/__init__.py",
    "diffalign/package/lazy.py",
    "diffalign/package/sibling.py",
    "diffalign/package/thing.py",
    "diffalign/plain.py",
    "diffalign/said.py",
    "diffalign/up.py",
    "diffalign/whole",
    "stages/one.py",
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project with every way to import."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_an_entry_stands_by_its_name_where_the_name_is_known(tree: Path) -> None:
    """Every import counts but a type checker's; of the two methods what they import counts, by either."""
    entries = ["diffalign/methods/${item.method}.py", "diffalign/methods/helper.py", "diffalign/methods/method.py"]
    assert closure.dependencies("one", "${policies}", tree) == sorted([*ALWAYS, *entries])


def test_without_a_name_the_whole_axis_counts(tree: Path) -> None:
    assert closure.dependencies("one", None, tree) == sorted([*ALWAYS, "diffalign/methods"])


def test_another_entry_changes_no_dependency(tree: Path) -> None:
    before = closure.dependencies("one", "${policies}", tree)
    (tree / "diffalign/methods/third.py").write_text("import diffalign.loss\ndef load(): pass")
    assert closure.dependencies("one", "${policies}", tree) == before


def test_a_folder_that_isnt_needed_as_a_whole_is_listed_file_by_file(tree: Path) -> None:
    (tree / "diffalign/whole/three.py").write_text("x = 1")
    found = closure.dependencies("one", None, tree)
    assert {"diffalign/whole/one.py", "diffalign/whole/two.py"} < set(found)
    assert "diffalign/whole" not in found


def test_a_package_that_does_something_is_listed(tree: Path) -> None:
    (tree / "diffalign/__init__.py").write_text('"""A docstring."""\nimport os')
    assert "diffalign/__init__.py" in closure.dependencies("one", None, tree)


def test_text_that_is_a_stages_result_is_listed_for_it(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closure, "SHOWN", {"one": {"diffalign/core/progress.py"}})
    assert {"diffalign/core/progress.py", "diffalign/only_progress.py"} < set(closure.dependencies("one", None, tree))


def test_a_folder_that_a_stage_is_there_for_counts_whole(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what the stage doesn't import; for other stages the folder changes no result."""
    monkeypatch.setattr(closure, "NO_RESULT", {"diffalign/package/": "a reason"})
    assert not [path for path in closure.dependencies("one", None, tree) if path.startswith("diffalign/package")]
    monkeypatch.setattr(closure, "SHOWN", {"one": {"diffalign/package/"}})
    assert "diffalign/package" in closure.dependencies("one", None, tree)


def test_rewriting_keeps_data_comments_and_order(tree: Path) -> None:
    before = """# what this is
stages:
  one:  # the first
    foreach: ${policies}
    do:
      cmd: python pipeline.py stage one
      deps:
      - raw            # data
      - stages/one.py
      - diffalign/gone.py
      - ${model.path}
      # the code
      outs:
      - made
  none:
    cmd: nothing
"""
    after = closure.rewrite(before, tree)
    code = "".join(f"      - {dep}\n" for dep in closure.dependencies("one", "${policies}", tree))
    assert after == before.replace("      - stages/one.py\n      - diffalign/gone.py\n", "").replace(
        "      # the code\n", f"      # the code\n{code}"
    )
    assert yaml.safe_load(after)["stages"]["one"]["do"]["outs"] == ["made"]
    assert closure.rewrite(after, tree) == after


def test_what_is_left_out_is_there_and_has_a_reason(repo: Path) -> None:
    for path, reason in closure.NO_RESULT.items():
        assert (repo / path).exists(), path
        assert len(reason) > 10


def test_the_code_of_sources_is_in_the_one_that_reads_several(repo: Path, tmp_path: Path) -> None:
    """A statement more changes the source's hash and nothing else, a docstring nothing."""
    folder = tmp_path / closure.SEVERAL.parent
    shutil.copytree(repo / closure.SEVERAL.parent, folder)
    before = (tmp_path / closure.SEVERAL).read_text()
    source = folder / "hpdv3.py"
    text = source.read_text()
    source.write_text(text.replace('"""HPDv3', '"""Another HPDv3', 1))
    assert closure.with_sources(before, tmp_path) == before
    source.write_text(f"{text}\nx = 1\n")
    after = closure.with_sources(before, tmp_path).splitlines()
    changed = [one for one, other in zip(before.splitlines(), after, strict=True) if one != other]
    assert [one.split(":")[0].strip() for one in changed] == ['"hpdv3"']
