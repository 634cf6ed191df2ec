"""Samples a second of our `ddpo` beside a loop as in the authors' DDPO code, on the same model, in one run.

`python -m benchmarks.methods [--quick] [--out NAME]` takes the demo's model (`--arch tiny`), or makes one of random
weights of Stable Diffusion 1.5's size (`--arch sd15`), checks that the loops' first gradients have the same norm for
the same draws, then times them in turns: a rollout, decoding, JPEG sizes as rewards, training on all its steps.
The authors' base config has 10 steps, guidance 5 and batches of 1 (ddpo-pytorch 28d2d8c); their loop is timed with our
micro-batch, too. Ours is timed also with `--rows` in a forward, several moves of the same pictures; and without
gradients of guidance's unconditional half, with twice the micro-batch: as many rows have a graph. With `--draft`, a
DRaFT-LV step besides, by a PickScore of random weights.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import results, worlds
from benchmarks.ddpo_loops import PARTS, Authors, Loop, Ours, Setting
from benchmarks.train import DTYPES, free, on_device
from diffalign.config.load import parse as parse_params
from diffalign.core.errors import UserError
from diffalign.planning.flops import matmul_rate, synchronize
from diffalign.runtime import devices
from stages import ingest, precompute

FIRST, BATCHED, OURS = "authors-style", "authors-style, our micro-batch", "ours"
SEVERAL, HALF = "ours, several moves a forward", "ours, unconditional half untrained"
TOLERANCE = 0.01
"""Of the norm of the first step's gradient, relative, in float32: JPEG sizes follow latents' last digits."""
PROMPTS = 16
RATIOS = [("ratios", "rates", FIRST), ("cpu_ratios", "cpu_rates", FIRST), ("batched_cpu_ratios", "cpu_rates", BATCHED)]
"""A row's ratios, turn by turn: their name, of which rates, over which loop's."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", choices=["tiny", "sd15"], default="tiny")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=list(DTYPES), help="fp32 on a CPU, bf16 on a GPU where not given")
    parser.add_argument("--samples", type=int, default=32, help="pictures an optimizer step, and a turn")
    parser.add_argument("--micro-batch", type=int, default=16, help="pictures a forward")
    parser.add_argument("--rows", type=int, default=64, help="rows a forward of the loop whose moves share forwards")
    parser.add_argument("--steps", type=int, default=10, help="steps of a rollout, all of which train")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--draft", action="store_true", help="a DRaFT-LV step too, without a peer")
    parser.add_argument("--quick", action="store_true", help="a first look: one turn of few steps")
    parser.add_argument("--out", help="writes benchmarks/results/OUT.json and .md")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repetitions, options.steps, options.samples = 1, 3, min(options.samples, 8)
    options.micro_batch = min(options.micro_batch, options.samples)
    options.precision = options.precision or ("bf16" if options.device == "cuda" else "fp32")
    if options.samples % 4:
        raise UserError(f"--samples: expected a multiple of 4, the pictures of a prompt, got {options.samples}")
    if options.rows % options.samples:
        raise UserError(f"--rows: expected a multiple of --samples {options.samples}, got {options.rows}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: expected a CUDA GPU that PyTorch can use, found none")
    return options


def make_setting(options: argparse.Namespace) -> Setting:
    """Makes model/, raw/ and, with the real stages, shards in the working folder."""
    architecture = worlds.ARCHITECTURES[options.arch]
    if options.arch == "tiny":
        Path("model").symlink_to(worlds.ROOT / "assets" / "tiny-sd")
    else:
        worlds.make_model(architecture, Path("model"))
    sizes = {"batch_size": options.samples, "micro_batch_size": 1}
    shared = {**sizes, "steps": 100, "warmup_steps": 2, "lr": 1e-5, "reference": "none"}
    raw = worlds.make_params(architecture, sizes).model_dump()
    rollout = {
        "sampler": {"name": "ddim", "eta": 1.0, "spacing": "leading"},
        "steps": options.steps,
        "guidance": 5.0,
        "images_per_prompt": 4,
        "updates": 1,
        "shared_noise": False,
    }
    ddpo = {"method": "ddpo", "rollout": rollout, "reward": {"jpeg_compressibility": {"weight": 1.0}}}
    ddpo |= {"advantage": {"kind": "group", "clip": 5.0}, "moves": {"share": 1.0, "span": [0.0, 1.0]}}
    ddpo |= {"trust": "clip", "clip": 1e-4, "kl": {"weight": 0.0, "space": "output"}, "train_unconditional": True}
    ddpo |= {"init": "model", "noise_seed": 0, **shared}
    raw["policies"] = {"base": raw["policies"]["base"], "ddpo": ddpo, "half": ddpo | {"train_unconditional": False}}
    if options.draft:
        raw["policies"]["draft"] = {"init": "model", "noise_seed": 0, **shared, **draft(rollout)}
        raw["rollouts"]["rewards_from"] = "judge"
    params = parse_params(raw, "the benchmark's params")
    worlds.make_data(Path("raw/train-00000-of-00001.parquet"), architecture.pixels, PROMPTS)
    ingest.run(params)
    precompute.run(params)
    return Setting(params, "ddpo", options.device, options.precision)


def draft(rollout: dict[str, Any]) -> dict[str, Any]:
    """Returns a DRaFT-LV policy, and makes its reward's folder: CLIP ViT-H/14 of random weights."""
    worlds.make_clip(Path("judge"))
    how = rollout | {"sampler": rollout["sampler"] | {"eta": 0.0}}
    gradient = {"steps": 1, "through": "exact", "sees": "end", "renoise": 2}
    reward = {"pickscore": {"weight": 1.0, "path": "judge", "batch_size": 4, "sha256": None}}
    values = {"method": "draft", "rollout": how, "reward": reward, "gradient": gradient, "hinge": None}
    return values | {"kl": {"weight": 0.0, "space": "output"}, "train_unconditional": True}


def built(setting: Setting, options: argparse.Namespace) -> dict[str, Loop]:
    """Builds the loops, which have the same prompts."""
    ours, several = (Ours(setting, micro_batch) for micro_batch in (options.micro_batch, options.rows))
    authors = [Authors(setting, micro_batch, ours.source) for micro_batch in (1, options.micro_batch)]
    half = Ours(replace(setting, policy="half"), 2 * options.micro_batch)
    return {FIRST: authors[0], BATCHED: authors[1], OURS: ours, SEVERAL: several, HALF: half}


def turn(loop: Loop, step: int, samples: int, device: str) -> dict[str, Any]:
    """Times an optimizer step with its rollout: seconds by the clock, of CPU time, and by part; peak bytes on a GPU."""
    loop.clock.seconds = dict.fromkeys(PARTS, 0.0)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    synchronize(device)
    began, cpu = time.perf_counter(), time.process_time()
    loop.step(step)
    synchronize(device)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    parts = dict(loop.clock.seconds)
    parts["training"] = seconds - sum(parts.values())
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {"rate": samples / seconds, "cpu_rate": samples / cpu, "parts": parts, "peak": peak}


def measure(options: argparse.Namespace, loops: dict[str, Loop]) -> dict[str, Any]:
    """Runs the loops in turns after one step of each to warm up; returns a row for each."""
    device, alone = options.device, len(loops) == 1
    norms, turns = {}, {name: [] for name in loops}
    for name, waiting in loops.items():
        with on_device(waiting, device, alone) as loop:
            norms[name] = loop.step(0)
        if isinstance(waiting, Authors):
            waiting.own_noise()
    if FIRST in norms and options.precision == "fp32":
        apart = max(abs(norm / norms[OURS] - 1) for name, norm in norms.items() if name != HALF)
        assert apart <= TOLERANCE, f"gradients differ: norms {norms}, expected at most {TOLERANCE} apart"
    for number in range(options.repetitions):
        for name, waiting in loops.items():
            with on_device(waiting, device, alone) as loop:
                turns[name].append(turn(loop, 1 + number, options.samples, device))
            print(f"turn {number + 1} {name}: {turns[name][-1]['rate']:.2f} samples/s", flush=True)
    return {name: row(turns[name], norms[name]) | {"micro_batch": loops[name].micro_batch} for name in loops}


def row(turns: list[dict[str, Any]], norm: float) -> dict[str, Any]:
    """Returns a loop's figures: medians of its turns, and all of them."""
    found = {"first_norm": norm, "rates": [t["rate"] for t in turns], "cpu_rates": [t["cpu_rate"] for t in turns]}
    found["samples_per_second"] = statistics.median(found["rates"])
    found["parts"] = {name: statistics.median(t["parts"][name] for t in turns) for name in PARTS}
    return found | {"peak_bytes": max((t["peak"] for t in turns if t["peak"]), default=None)}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the whole benchmark in a temporary folder; returns what is written to the results."""
    here, began = Path.cwd(), time.perf_counter()
    devices.keep_compiled(worlds.ROOT / devices.CACHE)  # not in the temporary folder
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            setting = make_setting(options)
            rate = matmul_rate(options.device, DTYPES[options.precision])
            rows = measure(options, built(setting, options))
            for row in rows.values():
                for ratios, kind, than in RATIOS:
                    row[ratios] = [a / b for a, b in zip(row[kind], rows[than][kind], strict=True)]
            if options.draft:
                free(options.device)
                alone = Setting(setting.params, "draft", options.device, options.precision)
                rows |= measure(options, {"ours, DRaFT-LV": Ours(alone, options.micro_batch)})
        finally:
            os.chdir(here)
    found = {**results.about(options), "matmul_flop_per_second": rate, "contenders": rows}
    return found | {"seconds": time.perf_counter() - began}


def markdown(found: dict[str, Any]) -> str:
    """Returns the table."""
    params = found["params"]
    lines = [
        *results.heading("methods", found),
        f"| loop | micro-batch | samples/s | times {FIRST} | by CPU time | times with our micro-batch, by CPU "
        f"time | {', s | '.join(PARTS)}, s | peak |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in found["contenders"].items():
        ratios = [results.spread(one[kind]) if kind in one else "" for kind, *_ in RATIOS]
        parts = [f"{one['parts'][part]:.2f}" for part in PARTS]
        peak = f"{one['peak_bytes'] / 1e9:.1f} GB" if one["peak_bytes"] else ""
        first = [name, str(one["micro_batch"]), results.spread(one["rates"])]
        lines.append(f"| {' | '.join([*first, *ratios, *parts, peak])} |")
    norms = ", ".join(f"{name} {one['first_norm']:.6g}" for name, one in found["contenders"].items())
    lines += [
        "",
        f"Medians of {params['repetitions']} turns of {params['samples']} pictures of {params['steps']} steps, all of "
        f"which train, guided [lowest, highest]; ratios turn by turn. Norms of the first step's "
        f"gradient, for equal draws: {norms}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    try:
        options = parse()
        os.environ |= {"DIFFALIGN_DEVICE": options.device, "DIFFALIGN_PRECISION": options.precision}  # for the stages
        os.environ.setdefault("DIFFALIGN_COMPILE", "0")  # neither loop is compiled
        found = run(options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    print(markdown(found))
    if options.out:
        print(f"written: {results.write(found, options.out, markdown)}")


if __name__ == "__main__":
    main()
