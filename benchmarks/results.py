"""Writes a benchmark's results: JSON with everything, Markdown with what a reader wants."""

import argparse
import os
import platform
import statistics
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from diffalign.core.files import write_json, write_text

FOLDER = Path(__file__).resolve().parent / "results"
VERSIONS = ("torch", "diffusers", "transformers", "accelerate", "numpy")
THREADING = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
"""Environment variables that move a CPU's figures."""


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Returns commit, hardware, versions and parameters."""
    return {
        "commit": describe(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": torch.cuda.get_device_name() if options.device == "cuda" else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "environment": {name: os.environ[name] for name in THREADING if name in os.environ},
        "torch": torch.__version__,
        "versions": {name: version(name) for name in VERSIONS},
        "params": {name: value for name, value in vars(options).items() if not name.startswith(("peer", "out"))},
    }


def describe() -> str:
    """Returns the commit, "-dirty" where there are changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "none"


def processor() -> str:
    """Returns the CPU's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def spread(values: list[float], digits: int = 2) -> str:
    """Returns median, lowest and highest."""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def heading(name: str, found: dict[str, Any]) -> list[str]:
    """Returns the lines that begin a benchmark's tables: the command again, the hardware, the commit."""
    params = found["params"]
    command = " ".join(f"--{key.replace('_', '-')} {shown(value)}".strip() for key, value in given(params).items())
    settings = "".join(f"{key}={value} " for key, value in found["environment"].items())
    return [
        f"`{settings}python -m benchmarks.{name} {command}`",
        "",
        f"{found['hardware']}, {found['cores']} cores, {found['threads']} threads, torch {found['torch']}; commit "
        f"{found['commit']}, {found['at']}. Matrix products in {params['precision']}: "
        f"{found['matmul_flop_per_second'] / 1e12:.3g} TFLOP/s.",
        "",
    ]


def markdown(found: dict[str, Any]) -> str:
    """Returns the tables of benchmarks/train.py."""
    params, losses, flop = found["params"], found["losses"], found["flop"]
    unet = flop["unet"]
    lines = [
        *heading("train", found),
        f"One forward: UNet {unet / 1e9:.4g} GFLOP an image, VAE encoder {flop['vae_encode'] / unet:.3f} times that an "
        f"image, text encoder {flop['text'] / unet:.4f} times that a prompt.",
        "",
        "| loop | micro-batch | pairs/s | times official-style | by CPU time | GFLOP a pair | of matmul | peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["contenders"].items():
        peak = f"{row['peak_bytes'] / 1e9:.1f} GB" if row["peak_bytes"] else ""
        ratio, cpu = (spread(row[kind]) if kind in row else "" for kind in ("ratios", "cpu_ratios"))
        lines.append(
            f"| {name} | {row['micro_batch']} | {spread(row['rates'])} | {ratio} | {cpu} | "
            f"{row['flop_per_pair'] / 1e9:.4g} | "
            f"{row['share_of_matmul']:.0%} | {peak} |"
        )
    exact = ", ".join(f"{name} {value:.1e}" for name, value in losses["same latents, same micro-batch"].items())
    lines += [
        "",
        f"Medians of {params['repetitions']} turns [lowest, highest]; ratios turn by turn, by the clock and by the "
        "process's CPU time; matmul is the rate of matrix products. Losses against ours for the same draws, stored "
        f"latents and micro-batch, at beta {losses['beta']:g}: {exact}. What float16 storage of latents and prompts "
        f"alone does to a loss: {losses['float16 storage alone']:.1e}; what the micro-batch's shape alone does: "
        f"{losses['micro-batch alone']:.1e}; a cached reference's errors instead of live ones: "
        f"{losses['cached reference alone']:.1e}.",
    ]
    if found["profile"]:
        lines += ["", "Where a step of ours goes, by operators' own time:", "", "| | share | calls |", "|---|---|---|"]
        lines += [f"| `{row['what'][:70]}` | {row['share']:.1%} | {row['calls']} |" for row in found["profile"]]
    return "\n".join(lines) + "\n"


def given(params: dict[str, Any]) -> dict[str, Any]:
    """Returns the options as on a command line."""
    return {name: value for name, value in params.items() if value not in (False, None)}


def shown(value: Any) -> str:
    """Returns an option's value; a switch has none."""
    if value is True:
        return ""
    return " ".join(f"'{item}'" for item in value) if isinstance(value, list) else str(value)


def write(found: dict[str, Any], name: str, tables: Callable[[dict[str, Any]], str] = markdown) -> Path:
    """Writes NAME.json and NAME.md, a benchmark's `tables`, into benchmarks/results; returns the JSON's path."""
    FOLDER.mkdir(exist_ok=True)
    write_text(FOLDER / f"{name}.md", tables(found))
    write_json(FOLDER / f"{name}.json", found)
    return FOLDER / f"{name}.json"
