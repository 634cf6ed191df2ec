"""Groups of processes: their output, their end, and that none outlives who started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffalign.runtime import processes
from diffalign.runtime.processes import run_group
from tests.helpers.pids import alive, gone, pid_in
from tests.helpers.scratch import REPO, environment, make, run

SLEEPER = "import time, pathlib, os; pathlib.Path({0!r}).write_text(str(os.getpid())); time.sleep(600)"


def test_lines_of_both_streams_and_the_exit_code() -> None:
    lines: list[str] = []
    text = "import sys; print('one'); sys.stdout.flush(); sys.stderr.write('two\\rthree\\n'); sys.exit(7)"
    assert run_group([sys.executable, "-c", text], lines.append) == 7
    assert lines == ["one", "two", "three"]


def test_environment_is_added() -> None:
    lines: list[str] = []
    code = "import os; print(os.environ['ADDED'], 'PATH' in os.environ)"
    run_group([sys.executable, "-c", code], lines.append, ADDED="1")
    assert lines == ["1 True"]


def test_a_timeout_ends_the_whole_group(tmp_path: Path) -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER.format(str(tmp_path / 'pid'))!r}])"
    with pytest.raises(TimeoutError, match="ended after 3 s"):
        run_group([sys.executable, "-c", child], lambda line: None, 3)
    assert gone(pid_in(tmp_path / "pid"))


def test_an_exception_here_ends_the_group(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    # the line comes once the number is written
    child = SLEEPER.format(str(tmp_path / "pid")).replace("time.sleep", "print(1); time.sleep")
    with pytest.raises(KeyboardInterrupt):
        run_group([sys.executable, "-uc", child], interrupt)
    assert gone(pid_in(tmp_path / "pid"))


def test_who_ignores_the_wish_to_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command itself ends at once; what it started ignores SIGTERM."""
    monkeypatch.setattr(processes, "GRACE", 1.0)
    child = "import signal; signal.signal(15, signal.SIG_IGN); " + SLEEPER.format(str(tmp_path / "pid"))
    starter = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", starter], stdin=subprocess.PIPE, text=True, start_new_session=True
    )
    pid = pid_in(tmp_path / "pid")
    processes.end_group(process)
    process.communicate()
    assert not alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's wish list is Linux's")
def test_nothing_outlives_a_killed_caller(tmp_path: Path) -> None:
    sleeper = SLEEPER.format(str(tmp_path / "pid"))
    caller = "import sys; from diffalign.runtime.processes import run_group; "
    caller += f"run_group([sys.executable, '-c', {sleeper!r}], print)"
    with subprocess.Popen([sys.executable, "-c", caller], cwd=REPO) as process:
        pid = pid_in(tmp_path / "pid")
        process.kill()
    assert gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's wish list is Linux's")
@pytest.mark.parametrize("shell", [s for s in ("/bin/sh", "/bin/bash", "/bin/zsh") if Path(s).exists()])
def test_a_stage_dies_with_a_killed_dvc(tmp_path: Path, shell: str) -> None:
    folder = make(tmp_path / "project")
    (folder / "stages/ingest.py").write_text(f"def run(params):\n    {SLEEPER.format(str(tmp_path / 'pid'))}\n")
    command = [sys.executable, "-m", "dvc", "repro", "ingest"]
    with subprocess.Popen(command, cwd=folder, env=environment(SHELL=shell, DIFFALIGN_TRACKING="0")) as process:
        pid = pid_in(tmp_path / "pid")
        process.kill()
    assert gone(pid)
    # What the killed one held is free again.
    (folder / "stages/ingest.py").write_text((folder / "stages/ingest.py").read_text().replace("time.sleep(600)", "1"))
    done = run(folder, "-m", "dvc", "repro", "ingest", ok=False, SHELL=shell, DIFFALIGN_TRACKING="0")
    assert "output 'data/comparisons' does not exist" in done.stdout


def test_a_stage_by_hand_survives_its_terminal(tmp_path: Path) -> None:
    folder = make(tmp_path / "project")
    (folder / "stages/ingest.py").write_text(f"def run(params):\n    {SLEEPER.format(str(tmp_path / 'pid'))}\n")
    starter = "import subprocess, sys; subprocess.Popen([sys.executable, 'pipeline.py', 'stage', 'ingest'])"
    subprocess.run([sys.executable, "-c", starter], cwd=folder, env=environment(DIFFALIGN_TRACKING="0"), check=True)
    pid = pid_in(tmp_path / "pid")
    time.sleep(0.5)
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)
