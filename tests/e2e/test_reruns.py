"""What DVC would run again after an edit of the code, asked of DVC itself in a project whose outs are stand-ins.

`status` names the stages whose own code, params or data changed. What follows them in the graph runs as well where
their outs change, and not otherwise.
"""

import shutil
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

CODE = ("diffalign", "stages")


class Project:
    """A copy of the code and of dvc.yaml in which DVC takes every stage for done."""

    def __init__(self, folder: Path, repo: Path) -> None:
        self.folder = folder
        for name in CODE:
            shutil.copytree(repo / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
            shutil.copy(repo / name, folder / name)
        for name in (
            "assets/comparisons/rows.parquet",
            "assets/tiny-sd/scheduler/scheduler_config.json",
            "assets/tiny-sd/vae/config.json",
            "assets/tiny-clip/config.json",
        ):
            self.write(name, "stand-in")
        self.write("metrics/rewards/.gitkeep", "")  # git has it
        (folder / "data/votes").mkdir(parents=True)  # nobody has voted
        for name in ("filters", "prompts"):  # of the user's own
            (folder / name).mkdir()
        Repo.init(str(folder), no_scm=True).close()
        with self.dvc() as dvc:
            for out in (out for stage in dvc.index.stages for out in stage.outs):
                path = Path(out.fs_path)
                self.write(str(path.relative_to(folder)) + ("" if path.suffix else "/file"), "stand-in")
            self.write("data/shards/manifest.json", "stand-in")  # the report reads it alone
            for policy in yaml.safe_load((folder / "params.yaml").read_text())["policies"]:
                self.write(f"data/rules/{policy}.json", "stand-in")
                self.write(f"data/feedback/{policy}.json", "stand-in")
            dvc.commit(force=True)
        assert self.changed() == set()

    @contextmanager
    def dvc(self) -> Iterator[Repo]:
        """DVC's view of the project as it is now."""
        with chdir(self.folder), Repo() as dvc:
            yield dvc

    def write(self, name: str, text: str) -> None:
        """Writes a file of the project."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def add(self, name: str, text: str) -> None:
        """Adds text at the end of a file of the project."""
        self.write(name, (self.folder / name).read_text() + text)

    def params(self, **changes: dict[str, Any]) -> None:
        """Changes sections of params.yaml."""
        raw = yaml.safe_load((self.folder / "params.yaml").read_text())
        for section, values in changes.items():
            raw[section] |= values
        self.write("params.yaml", yaml.safe_dump(raw))

    def changed(self) -> set[str]:
        """Asks DVC which stages it would run for a change of their own."""
        with self.dvc() as dvc:
            return set(dvc.status())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Project:
    """A project that is up to date."""
    return Project(tmp_path_factory.mktemp("reruns"), repo)


@pytest.fixture
def project(prepared: Project, tmp_path: Path) -> Iterator[Project]:
    """The project, put back after the test as it was."""
    kept = [*CODE, "params.yaml"]
    for name in kept:
        source = prepared.folder / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, tmp_path / name)
    yield prepared
    for name in kept:
        if (prepared.folder / name).is_dir():
            shutil.rmtree(prepared.folder / name)
            shutil.copytree(tmp_path / name, prepared.folder / name)
        else:
            shutil.copy2(tmp_path / name, prepared.folder / name)


def stages(changed: set[str]) -> set[str]:
    """The names of stages, each once where it's repeated over policies or rewards; but for three.

    These read params and code in a second, and their outs differ only where it matters.
    """
    return {name.partition("@")[0] for name in changed} - {"check", "feedback", "rules"}


ENTRIES = [
    "diffalign/methods/dummy.py",
    "diffalign/models/dummy.py",
    "diffalign/data/sources/dummy.py",
    "diffalign/rewards/dummy.py",
]
SCREEN = [
    "diffalign/core/errors.py",
    "diffalign/core/progress.py",
    "diffalign/runtime/throughput.py",
]
REPORT = [
    "diffalign/monitoring/alarm_words.py",
    "diffalign/reporting/charts.py",
    "diffalign/reporting/templates/report.html",
]


@pytest.mark.parametrize("file", ENTRIES)
def test_a_new_entry_of_an_axis_runs_nothing_again(project: Project, file: str) -> None:
    project.write(file, "def load():\n    pass\n")
    assert stages(project.changed()) == set()


def test_prompts_of_ones_own_are_watched_where_params_say_that_they_are(project: Project) -> None:
    project.write("lists/mine.txt", "a fox")
    project.params(generate={"prompts": "lists/mine.txt", "own_prompts": "lists/mine.txt"})
    with project.dvc() as dvc:
        status = str(dvc.status()["generate@base"])
    assert "lists/mine.txt" in status and "prompts/" not in status


def test_a_new_sampler_makes_images_again_and_trains_nothing(project: Project) -> None:
    """DVC can't know the sampler of an override, so images depend on all of them."""
    project.write("diffalign/diffusion/samplers/dummy.py", "def load():\n    pass\n")
    assert stages(project.changed()) == {"generate"}


@pytest.mark.parametrize("file", ["policy_gradient.py", "rollouts.py"])
def test_an_edit_of_what_rollouts_need_trains_again(project: Project, file: str) -> None:
    """All policies, since dvc.yaml names a method's own file by its word, and not what that imports."""
    project.add(f"diffalign/diffusion/{file}", "\nX = 1\n")
    assert stages(project.changed()) == {"train"}


@pytest.mark.parametrize("file", SCREEN)
def test_words_for_the_screen_run_nothing_again(project: Project, file: str) -> None:
    project.add(file, "\nX = 1\n")
    assert project.changed() == set()


def test_the_types_of_params_and_a_comment_run_their_check_only(project: Project) -> None:
    """Its out is constant, so that nothing follows."""
    for file in ("diffalign/config/params.py", "diffalign/config/methods/dpo.py", "params.yaml"):
        project.add(file, "\n# A comment.\n")
    assert project.changed() == {"check"}


@pytest.mark.parametrize("file", REPORT)
def test_an_alarms_wording_and_a_template_run_the_report_only(project: Project, file: str) -> None:
    project.add(file, "\n")
    assert project.changed() == {"report"}


def test_an_edit_of_a_method_trains_its_policies_only(project: Project) -> None:
    project.add("diffalign/methods/sft.py", "\nX = 1\n")
    assert project.changed() == {"train@sft"}


def test_an_edit_of_the_losses_trains_every_policy(project: Project) -> None:
    project.add("diffalign/diffusion/losses.py", "\nX = 1\n")
    assert {"train@dpo", "train@sft"} < project.changed()
    assert not stages(project.changed()) & {"ingest", "precompute", "generate"}


def test_an_edit_of_a_family_runs_only_what_uses_it(project: Project) -> None:
    project.add("diffalign/models/sdxl.py", "\nX = 1\n")
    assert project.changed() == set()
    project.add("diffalign/models/sd15.py", "\nX = 1\n")
    assert {"precompute", "train@dpo", "generate@dpo"} < project.changed()


def test_a_new_policy_runs_its_own_stages_and_the_results(project: Project) -> None:
    policies = yaml.safe_load((project.folder / "params.yaml").read_text())["policies"]
    project.params(policies={"second": policies["sft"]})
    assert stages(project.changed() - {"train@second", "generate@second"}) <= {
        "people",
        "evaluate",
        "audit",
        "gate",
        "report",
    }


def test_an_edit_of_the_training_of_reward_models_trains_them_only(project: Project) -> None:
    project.add("diffalign/reward_training/objective.py", "\nX = 1\n")
    assert project.changed() == {"reward@learned"}


def test_other_weights_of_a_reward_model_score_again(project: Project) -> None:
    """Its metrics have the weights' hash. The others' scores are kept by version, and cost little."""
    project.write("metrics/rewards/learned.json", "other weights")
    assert {"score@learned", "score@oracle"} <= project.changed()
    project.write("metrics/rewards/learned.json", "stand-in")
    assert project.changed() == set()


def test_images_follow_the_reward_of_their_own_rule(project: Project) -> None:
    project.write("data/rules/dpo.json", "its rule's reward is another")
    assert {name for name in project.changed() if name.startswith("generate")} == {"generate@dpo"}
    project.write("data/rules/dpo.json", "stand-in")


def test_a_training_follows_the_rewards_that_it_reads(project: Project) -> None:
    """An edit of a reward's code runs `feedback`, whose files say which policies learn from it; and the audit."""
    project.add("diffalign/rewards/jpeg_compressibility.py", "\nX = 1\n")
    project.write("data/feedback/dpo.json", "its reward is another")
    assert project.changed() == {"feedback", "rules", "train@dpo", "audit"}
    project.write("data/feedback/dpo.json", "stand-in")


def test_a_docstring_runs_its_stage_again_unless_dvc_is_told_that_nothing_changed(project: Project) -> None:
    """DVC compares bytes; the work folders compare code (tests/core/test_code.py), so that a training goes on."""
    project.add("diffalign/training/loop.py", '\n"""Words."""\n')
    changed = project.changed()
    assert stages(changed) == {"train"}
    with project.dvc() as dvc:
        for name in changed:
            dvc.commit(name, force=True)
    assert project.changed() == set()
