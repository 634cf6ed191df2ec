"""Drives a real checkout of a public Diffusion-DPO script on this benchmark's model and data, and times it.

Known: SalesforceAIResearch/DiffusionDPO (`train.py`) and huggingface/diffusers (`train_diffusion_dpo.py`). None of
their code is here. A run's start (imports, loading) is taken off by running twice, with few and with more steps.
"""

import argparse
import ast
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import worlds
from diffalign.core.errors import UserError

SCRIPTS = {
    "train.py": "salesforce",
    "examples/research_projects/diffusion_dpo/train_diffusion_dpo.py": "diffusers",
    "train_diffusion_dpo.py": "diffusers",
}
STEPS = (2, 6)
"""Optimizer steps of the short and of the long run."""
PRECISIONS = {"fp32": "no", "bf16": "bf16"}


def find(checkout: Path) -> tuple[str, Path]:
    """Returns the kind of the script in a checkout, and its file; UserError if none is there."""
    for name, kind in SCRIPTS.items():
        if (checkout / name).is_file():
            return kind, (checkout / name).resolve()
    raise UserError(f"--peer-checkout {checkout}: expected one of {', '.join(SCRIPTS)} in it, found none")


def missing(script: Path, kind: str, python: str) -> list[str]:
    """Lists the packages that a script imports at its top level and that Python lacks."""
    tree = ast.parse(script.read_text())
    names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module}
    tops = {name.partition(".")[0] for name in names} | ({"xformers"} if kind == "salesforce" else set())
    code = (
        "import importlib.util, json, sys\n"
        "print(json.dumps([n for n in sys.argv[1:] if importlib.util.find_spec(n) is None]))"
    )
    done = subprocess.run([python, "-c", code, *sorted(tops)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"--peer-python {python}: expected a Python that runs, got: {done.stderr.strip()[-300:]}")
    found: list[str] = json.loads(done.stdout)
    return found


def command(kind: str, options: argparse.Namespace, steps: int, out: Path) -> list[str]:
    """Returns the script's arguments for one run in the working folder, in its own terms."""
    micro_batch = 1 if kind == "salesforce" else int(options.micro_batch)
    arguments = {
        "pretrained_model_name_or_path": "model",
        "dataset_name": "pickapic",
        "resolution": worlds.ARCHITECTURES[options.arch].pixels,
        "train_batch_size": micro_batch,
        "gradient_accumulation_steps": max(options.batch // micro_batch, 1),
        "dataloader_num_workers": options.workers,
        "max_train_steps": steps,
        "num_train_epochs": 10**6 if kind == "salesforce" else 1,
        "mixed_precision": PRECISIONS[options.precision],
        "learning_rate": 1e-5,
        "checkpointing_steps": 10**9,
        "output_dir": out,
        "report_to": "tensorboard",
        "seed": 0,
    }
    if kind == "diffusers":
        arguments |= {"dataset_split_name": "train"}
        arguments.pop("num_train_epochs")
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    words += ["--gradient_checkpointing"] * options.gradient_checkpointing
    return words + (["--sdxl"] * (options.arch == "sdxl") if kind == "salesforce" else [])


def seconds(script: Path, kind: str, options: argparse.Namespace, steps: int) -> float:
    """Returns the wall time of one run of the script; UserError with its last words if it fails."""
    environment = {**os.environ, "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    environment["ACCELERATE_USE_CPU"] = "true" if options.device == "cpu" else "false"
    environment["HF_HOME"] = str(Path("cache").resolve())
    words = [options.peer_python, str(script), *command(kind, options, steps, Path(f"out-{steps}"))]
    start = time.perf_counter()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{script.name} ended with exit code {done.returncode}. Its last words:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def run(options: argparse.Namespace) -> str:
    """Returns the pairs a second of the script in a checkout, as a line; UserError where it can't run, saying why."""
    kind, script = find(options.peer_checkout)
    if "/" in options.peer_python:
        options.peer_python = os.path.abspath(options.peer_python)  # its links are what makes it an environment's
    lacking = missing(script, kind, options.peer_python)
    if lacking:
        raise UserError(
            f"{script.name} imports what {options.peer_python} doesn't have: {', '.join(lacking)}. Install them beside "
            f"{options.peer_checkout}'s requirements in an environment of its own, and name its Python: --peer-python"
        )
    if kind == "salesforce" and options.device == "cpu":
        raise UserError("train.py: expected --device cuda, since it asks for xformers' attention, which needs a GPU")
    if options.micro_batch == "auto":
        raise UserError("--micro-batch: expected a whole number with --peer-checkout, got 'auto'")
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            architecture = worlds.ARCHITECTURES[options.arch]
            worlds.make_model(architecture, Path("model"))
            worlds.make_data(Path("pickapic/train-00000-of-00001.parquet"), architecture.pixels, 4 * options.batch)
            short, long = (seconds(script, kind, options, steps) for steps in STEPS)
        finally:
            os.chdir(here)
    rate = (STEPS[1] - STEPS[0]) * options.batch / (long - short)
    return f"{script.name}: {rate:.2f} pairs/s ({options.batch} pairs a step, {STEPS[1] - STEPS[0]} steps timed)"
