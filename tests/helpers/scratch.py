"""A copy of this project with trivial stages: the command line, the flow and the mirror, without the models."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

REPO = Path(__file__).resolve().parents[2]

DAG = """
stages:
  ingest:
    cmd: python pipeline.py stage ingest
    deps: [raw, stages/ingest.py]
    params: [data]
    outs: [data/comparisons, metrics/ingest.json]
  train:
    foreach: ${policies}
    do:
      cmd: python pipeline.py stage train@${key}
      deps: [data/comparisons, stages/train.py]
      params: ["policies.${key}", training, probe.winner_worse, probe.divergence]
      outs: ["models/policies/${key}", "curves/${key}.jsonl"]
  evaluate:
    cmd: python pipeline.py stage evaluate
    deps: [models/policies, stages/evaluate.py]
    params: [evaluate, policies, training]
    outs: [metrics/evaluate.json, reports]
"""

HEAD = """
import json, os, time
from pathlib import Path

def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)

"""

STAGES = {
    "ingest": """
def run(params):
    print("reading raw")
    write("data/comparisons/comparisons.txt", Path("raw/data.txt").read_text())
    write("metrics/ingest.json", json.dumps({"rows": 30, "rejects": {"tie": 2}}))
""",
    "train": """
def run(params, policy):
    value = params.policies[policy]
    steps = 0 if value.method == "none" else 40
    probe = {"probe/winner_relative": 4.0, "probe/winner_relative_se": 0.1, "probe/loser_relative": 0.0}
    lines = [{"step": i, "loss": 1 / (i + 1), "implicit_accuracy": 0.5} for i in range(steps)]
    lines = [json.dumps(line | (probe if line["step"] == 39 else {})) for line in lines]
    live = Path(f"runs/live/train@{policy}.jsonl")
    write(live, "")
    for line in lines:
        with open(live, "a") as file:
            file.write(line + "\\n")
        time.sleep(float(os.environ.get("SECONDS_A_STEP", "0")))
    if steps:
        print(f"train {policy}: 10/40 (5.0/s, ETA 0:06) loss 0.5")
        print(f"train {policy}: 40/40 (5.0/s, ETA 0:00)")
        write(f"models/policies/{policy}/unet/diffusion_pytorch_model.safetensors", "weights")
    about = {"conventions": {"summed": 0.0625, "lr_launched": 2.048e-05}} if steps else {}
    write(f"models/policies/{policy}/policy.json", json.dumps({"name": policy, **about}))
    write(f"curves/{policy}.jsonl", "".join(line + "\\n" for line in lines))
""",
    "evaluate": """
def run(params):
    row = {"policy": "dpo", "baseline": "base", "scorer": "oracle", "set": "test", "prompts": 320, "seeds": 1,
           "wins": 280, "ties": 8, "losses": 32, "win_rate": 0.8875, "ci_low": 0.85, "ci_high": 0.92, "p": 0.001,
           "p_holm": 0.001, "effect": 0.5, "effect_low": 0.4, "effect_high": 0.6, "same_noise": True, "differs": [],
           "in_family": True}
    reward = {"policy": "dpo", "accuracy": 0.66, "ci_low": 0.62, "ci_high": 0.70, "pairs": 420, "ceiling": 0.76}
    lists = dict.fromkeys(("head_to_heads", "categories", "over_seeds", "rewards", "alarms"), [])
    results = {"schema": 3, **lists, "comparisons": [row], "implicit_reward": [reward], "policies": {}, "images": {}}
    write("metrics/evaluate.json", json.dumps(results))
    write("reports/report.html", "<p>a report</p>")
""",
}


def environment(**changes: str) -> dict[str, str]:
    """This process's, with this Python first."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **changes}


def run(folder: Path, *command: str, ok: bool = True, **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs `python ...` in the project folder; stdout has both streams."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert not ok or done.returncode == 0, done.stdout
    return done


PINNED = {"beta": 2000, "lr": 3e-5, "steps": 150}


def make(folder: Path, policies: tuple[str, ...] = ("base", "dpo")) -> Path:
    """Writes the project into a new folder, a DVC repository without git."""
    folder.mkdir(parents=True)
    for name in ("pipeline.py", "prefect.toml", "prefect.yaml", ".dvcignore"):
        shutil.copy(REPO / name, folder)
    for name in ("arena", "diffalign", "flows", "studies"):
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "stages").mkdir()
    (folder / "stages/__init__.py").touch()
    for name, text in STAGES.items():
        (folder / f"stages/{name}.py").write_text(HEAD + text)
    (folder / "raw").mkdir()
    (folder / "raw/data.txt").write_text("comparisons\n")
    (folder / "dvc.yaml").write_text(DAG)
    params = yaml.safe_load((REPO / "params.yaml").read_text())
    params["policies"] = {name: params["policies"][name] for name in policies}
    for policy in params["policies"].values():  # whatever the default's are
        if policy["method"] != "none":
            policy |= PINNED
    params["data"]["path"] = "raw"
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n    no_scm = true\n")
    return folder


def change(folder: Path, policy: str, **values: object) -> None:
    """Edits a policy in params.yaml."""
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["policies"][policy] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
