"""The wheel: installed beside nothing of the clone, it makes a repository of one's own in which DVC runs the stages."""

import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from diffalign.commands import new_repository, own_dag
from diffalign.core import yaml_file
from diffalign.core.errors import UserError

REPO = Path(__file__).resolve().parents[2]


def test_the_dag_is_the_projects_with_hashes_for_code() -> None:
    """All but commands and code is equal; a stage depends on its hash, and what it names in `code/` is written."""
    ours, own = yaml_file.read(REPO / "dvc.yaml"), yaml.safe_load(own_dag.text("1.2.3"))
    written = own_dag.hashes()
    assert {key: ours[key] for key in ours if key != "stages"} == {key: own[key] for key in own if key != "stages"}
    assert list(ours["stages"]) == list(own["stages"])
    for name, stage in own["stages"].items():
        before, after = (entry.get("do", entry) for entry in (ours["stages"][name], stage))
        data = [dep for dep in before["deps"] if not dep.startswith(own_dag.OURS)]
        code = [dep for dep in after["deps"] if dep.startswith("code/")]
        assert after["cmd"] == before["cmd"].replace("python pipeline.py", "diffalign")
        assert [dep for dep in after["deps"] if dep not in code] == data
        assert f"code/{name}.txt" in code and len(code) == len(set(code))
        assert {dep for dep in code if "${" not in dep} <= set(written)
        assert {key: before[key] for key in before if key not in ("cmd", "deps")} == {
            key: after[key] for key in after if key not in ("cmd", "deps")
        }
    assert {"code/methods/dpo.txt", "code/models/sd15.txt", "code/rewards/oracle.txt"} <= set(written)
    assert "code/methods/method.txt" not in written  # a helper, no entry


def test_an_upgrade_keeps_edits_and_says_whose_code_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="made by `diffalign new`"):
        new_repository.upgrade()
    new_repository.write(tmp_path)
    assert "No stage's code has changed" in new_repository.upgrade()
    (tmp_path / "code" / "methods" / "dpo.txt").write_text("of an older version\n")
    (tmp_path / "code" / "methods" / "gone.txt").write_text("of a method that was removed\n")
    with pytest.raises(UserError, match=r"code/methods/dpo\.txt .* diffalign upgrade"):
        own_dag.check("train")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    told = new_repository.upgrade()
    assert "Code has changed: methods/dpo." in told and "dvc.yaml.new" in told
    assert (tmp_path / "dvc.yaml").read_text() == "stages: {}\n"
    assert not (tmp_path / "code" / "methods" / "gone.txt").exists()
    own_dag.check("train")


@pytest.mark.slow
def test_the_wheel_works_outside_the_clone(tmp_path: Path) -> None:
    """Builds and installs the wheel, whose dependencies are this environment's; new, plan, and a stage by DVC."""
    source = tmp_path / "source"
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if not name.startswith(("tests/", "docs/", "benchmarks/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, source / name)
    wheel = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", wheel, tmp_path], cwd=source, capture_output=True, check=True)
    (built,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv")
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(built) as file:
        assert {name.split("/")[0] for name in file.namelist() if ".dist-info" not in name} == {"diffalign"}
        file.extractall(packages)
    # .pth: what is installed here; the wheel comes first.
    (packages / "here.pth").write_text("\n".join(path for path in site.getsitepackages()))
    bin_ = tmp_path / "venv" / "bin"
    (bin_ / "diffalign").write_text(
        f"#!{bin_ / 'python'}\nfrom diffalign.clone.pipeline import main\nmain()\n"  # as its entry point is installed
    )
    (bin_ / "diffalign").chmod(0o755)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env["PATH"] = f"{bin_}{os.pathsep}{env['PATH']}"

    def run(*command: str, where: Path = tmp_path) -> str:
        done = subprocess.run(command, cwd=where, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "git commit" in run("diffalign", "new", "mine")
    mine = tmp_path / "mine"
    assert not list(mine.rglob("*.py")) and (mine / "prefect.toml").exists()
    assert "dpo: DPO" in run("diffalign", "plan", "--gpu", "4090", where=mine / "code")  # from a folder below it, too
    run(str(bin_ / "python"), "-m", "dvc", "repro", "ingest", where=mine)
    assert (mine / "metrics" / "ingest.json").exists()
    assert "No stage's code has changed" in run("diffalign", "upgrade", where=mine)
