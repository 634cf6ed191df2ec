"""Pairs a second of Diffusion-DPO training: diffalign's loop beside the public scripts' ways, in one run.

`python -m benchmarks.train [--arch tiny] [--device cpu] [--out NAME]` makes a random-weight model and JPEGs in a
temporary folder, ingests and precomputes them with the real stages, checks that all loops have the same loss for the
same draws, compiling nothing, and then times them in turns (A B C A B C ...), each built and compiled once: on a GPU,
those whose turn it isn't wait in the CPU's memory. `official-style` and `diffusers-style` are our re-writings
(contenders.py); `--peer-checkout DIR` runs the real scripts (checkouts.py).
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks import checkouts, results, worlds
from benchmarks.contenders import CONTENDERS, Contender, InLoop, Ours, Setting
from diffalign.core import axes
from diffalign.core.errors import UserError
from diffalign.models import family as families
from diffalign.planning.flops import counted, matmul_rate, synchronize
from diffalign.runtime import devices

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"cpu": 1e-6, "cuda": 1e-4}
"""Of the loss in fp32, relative where it is above 1: float32 rounding of errors near 1, with beta / 2 before them. On a
GPU our blocks are compiled and laid out otherwise, the other loops' aren't.
"""
FIRST = "official-style"
"""The contender that the ratios are to."""
QUICK = (FIRST, "ours, live reference")
"""The contenders of `--quick`."""


LORA = {"rank": 8, "alpha": 8, "targets": None}
"""The adapters of `--adapter lora`."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", choices=list(worlds.ARCHITECTURES), default="tiny")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=list(DTYPES), help="fp32 on a CPU, bf16 on a GPU where not given")
    parser.add_argument("--adapter", choices=["full", "lora"], default="full", help="official-style is always full")
    parser.add_argument("--batch", type=int, default=32, help="pairs an optimizer step")
    parser.add_argument("--micro-batch", default="32", help="pairs a forward, or auto: doubled to the fastest")
    parser.add_argument("--pairs", type=int, default=32, help="pairs a timed turn, a multiple of --batch")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--workers", type=int, default=0, help="decoding processes of the loops that decode")
    parser.add_argument("--quick", action="store_true", help="a first look: one turn of one step of official and ours")
    parser.add_argument("--profile", action="store_true", help="where our loop's time goes")
    parser.add_argument("--contenders", nargs="*", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--out", help="writes benchmarks/results/OUT.json and .md")
    parser.add_argument("--peer-checkout", type=Path, help="a checkout of DiffusionDPO or diffusers to run instead")
    parser.add_argument("--peer-python", default=sys.executable, help="the Python with what that checkout imports")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repetitions, options.pairs = 1, options.batch
        options.contenders = [name for name in options.contenders if name in QUICK]
    options.precision = options.precision or ("bf16" if options.device == "cuda" else "fp32")
    if options.pairs % options.batch:
        raise UserError(f"--pairs: expected a multiple of --batch {options.batch}, got {options.pairs}")
    if options.micro_batch != "auto" and (not options.micro_batch.isdecimal() or int(options.micro_batch) < 1):
        raise UserError(f"--micro-batch: expected a whole number from 1, or auto, got {options.micro_batch!r}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: expected a CUDA GPU that PyTorch can use, found none")
    family = worlds.ARCHITECTURES[options.arch].family
    if family not in axes.names("diffalign.models"):
        raise UserError(f"--arch {options.arch}: expected one of the families {axes.names('diffalign.models')}")
    return options


def make_setting(options: argparse.Namespace) -> Setting:
    """Returns the world of a run, made in the working folder, whose data is as large as two optimizer steps."""
    lora = LORA if options.adapter == "lora" else None
    policy = {"lora": lora, "batch_size": options.batch, "micro_batch_size": 1}
    architecture = worlds.ARCHITECTURES[options.arch]
    params = worlds.make_world(architecture, min(2 * options.batch, 256), policy)
    return Setting(params, options.device, options.precision, options.gradient_checkpointing, options.workers)


def nudge(contender: Contender, scale: float = 0.003) -> None:
    """Moves the weights by the same noise in every contender, away from the reference: there every loss is ln 2."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in contender.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(scale * noise.to(parameter.device, parameter.dtype))


def compare_losses(setting: Setting, micro_batch: int, steps: int) -> dict[str, Any]:
    """Compares losses on equal draws, away from the reference, without learning; AssertionError if they differ.

    Asserted at equal latents (the stored ones) and equal micro-batches: what is left is how the loss is computed. Also
    returned: what float16 storage, the micro-batch's shape and a cached reference do to a loss, each alone.
    """
    frozen = {"lr": 0.0, "weight_decay": 0.0, "batch_size": min(8, setting.policy.batch_size)}
    adapter = setting.policy.adapter
    makers: dict[str, Callable[[], Contender]] = {
        "ours": lambda: Ours(setting, 1, **frozen),
        "ours, batched": lambda: Ours(setting, micro_batch, **frozen),
        "official-style, stored": lambda: InLoop(setting, 1, adapter, stored=True),
        "official-style": lambda: InLoop(setting, 1, adapter),
        "diffusers-style, stored": lambda: InLoop(setting, micro_batch, adapter, stored=True),
    }
    losses = {}
    for name, make in makers.items():
        contender = make()
        if isinstance(contender, InLoop):
            contender.policy = contender.policy.model_copy(update=frozen)
            contender.optimizer.param_groups[0]["weight_decay"] = 0.0
        nudge(contender)
        losses[name] = [contender.step(step) for step in range(steps)]
        contender = None  # the next one needs its memory
        free(setting.device)

    ours = Ours(setting, micro_batch, reference="cached", **frozen)
    nudge(ours)
    cached = max(ours.cached_apart(step) for step in range(steps))
    del ours
    free(setting.device)

    def apart(one: str, other: str) -> float:
        return max(abs(a - b) / max(1.0, b) for a, b in zip(losses[one], losses[other], strict=True))

    exact = {"official-style": apart("official-style, stored", "ours")}
    exact["diffusers-style"] = apart("diffusers-style, stored", "ours, batched")
    if setting.precision == "fp32":
        limit = TOLERANCE[setting.device]
        assert max(exact.values()) <= limit, f"losses differ by {exact}, expected at most {limit}"
    return {
        "beta": setting.policy.beta,
        "losses": losses["ours"],
        "same latents, same micro-batch": exact,
        "cached reference alone": cached,
        "float16 storage alone": apart("official-style", "official-style, stored"),
        "micro-batch alone": apart("ours, batched", "ours"),
    }


def turn(contender: Contender, first: int, steps: int, device: str) -> dict[str, Any]:
    """Takes one turn: times some steps from `first` on.

    Seconds by the clock and of CPU time, which other work on the machine disturbs less; losses; peak bytes on a GPU.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    synchronize(device)
    start, cpu = time.perf_counter(), time.process_time()
    losses = [contender.step(step) for step in range(first, first + steps)]
    synchronize(device)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {"seconds": seconds, "cpu_seconds": cpu, "losses": losses, "peak": peak}


@contextmanager
def on_device(contender: Contender, device: str, alone: bool) -> Iterator[Contender]:
    """Holds a contender on the device while the block runs; on a GPU it makes room for the others after it."""
    parks = device == "cuda" and not alone
    if parks:
        contender.move(device)
    try:
        yield contender
    finally:
        if parks:
            contender.move("cpu")
            free(device)


def free(device: str) -> None:
    """Gives back what a dropped contender held."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def fastest_micro_batch(make: Callable[[int], Contender], largest: int, device: str) -> int:
    """Doubles the micro-batch until the GPU's memory or `largest` ends it; returns the fastest, in pairs a second.

    Nothing is compiled: that would take minutes for each size.
    """
    found: dict[int, float] = {}
    size = 1
    while size <= largest:
        with suppress(torch.cuda.OutOfMemoryError), torch.compiler.set_stance("force_eager"):
            contender = make(size)
            contender.step(0)
            found[size] = turn(contender, 1, 1, device)["seconds"]
        contender = None  # type: ignore[assignment]  # not while the error is at hand: its traceback holds it
        free(device)
        if size not in found:
            break
        print(f"  micro-batch {size}: {largest / found[size]:.2f} pairs/s", flush=True)
        size *= 2
    if not found:
        raise UserError("not even one pair fits into the GPU's memory; try --adapter lora, --gradient-checkpointing")
    return min(found, key=found.__getitem__)


def micro_batches(options: argparse.Namespace, setting: Setting) -> dict[str, int]:
    """Returns each contender's pairs in a forward."""
    sizes: dict[str, int] = {}
    for name in options.contenders:
        if options.micro_batch == "auto" and name != FIRST:
            print(name)
            make = CONTENDERS[name]
            sizes[name] = fastest_micro_batch(lambda m, make=make: make(setting, m), options.batch, options.device)
        else:
            sizes[name] = 1 if name == FIRST else min(int(options.micro_batch), options.batch)
    return sizes


def measure(options: argparse.Namespace, setting: Setting) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs all contenders in turns, each built once; returns a row for each, and ours' profile where asked for."""
    batch, device = options.batch, options.device
    steps, alone = options.pairs // batch, len(options.contenders) == 1
    built: dict[str, Contender] = {}
    rows: dict[str, Any] = {}
    for name, size in micro_batches(options, setting).items():
        start = time.perf_counter()
        built[name] = CONTENDERS[name](setting, size)
        with on_device(built[name], device, alone) as contender:
            rows[name] = {"micro_batch": size, "losses": [contender.step(0)]}  # it warms up, and compiles
            synchronize(device)
        rows[name]["first_step_seconds"] = time.perf_counter() - start
        print(f"{name}: built, first step after {rows[name]['first_step_seconds']:.0f} s", flush=True)
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in built}
    for number in range(options.repetitions):
        for name, waiting in built.items():
            with on_device(waiting, device, alone) as contender:
                turns[name].append(turn(contender, 1 + number * steps, steps, device))
            print(f"turn {number + 1} {name}: {options.pairs / turns[name][-1]['seconds']:.2f} pairs/s", flush=True)
    for name, row in rows.items():
        with on_device(built[name], device, alone) as contender, torch.compiler.set_stance("force_eager"):
            row["flop_per_pair"] = counted(lambda c=contender: c.step(0)) / batch
        row["rates"] = [options.pairs / t["seconds"] for t in turns[name]]
        row["pairs_per_second"] = statistics.median(row["rates"])
        row["cpu_seconds_per_pair"] = [t["cpu_seconds"] / options.pairs for t in turns[name]]
        row["losses"] += turns[name][0]["losses"]
        row["peak_bytes"] = max((t["peak"] for t in turns[name] if t["peak"]), default=None)
    ours = next((contender for contender in built.values() if isinstance(contender, Ours)), None)
    if ours is None or not options.profile:
        return rows, []
    with on_device(ours, device, alone):
        return rows, profile(ours, device)


def add_ratios(rows: dict[str, Any], rate: float) -> None:
    """Adds to each row its ratios to the first loop, turn by turn, and its share of the matrix products' rate."""
    for row in rows.values():
        row["flop_per_second"] = row["flop_per_pair"] * row["pairs_per_second"]
        row["share_of_matmul"] = row["flop_per_second"] / rate
        if FIRST in rows:  # their losses, too, but for the cached reference's: its draws are the pairs' own
            row["ratios"] = [a / b for a, b in zip(row["rates"], rows[FIRST]["rates"], strict=True)]
            times = zip(rows[FIRST]["cpu_seconds_per_pair"], row["cpu_seconds_per_pair"], strict=True)
            row["cpu_ratios"] = [a / b for a, b in times]
            pairs = zip(row["losses"], rows[FIRST]["losses"], strict=True)
            row["loss_apart"] = max(abs(a - b) for a, b in pairs)


def profile(contender: Contender, device: str) -> list[dict[str, Any]]:
    """Profiles one step of a warm loop; returns operators by their own time."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] * (device == "cuda")
    with torch.profiler.profile(activities=kinds) as trace:
        contender.step(1)
    name = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    events = sorted(trace.key_averages(), key=lambda e: -getattr(e, name))
    total = sum(getattr(e, name) for e in events)
    return [{"what": e.key, "share": getattr(e, name) / total, "calls": e.count} for e in events[:15]]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the whole benchmark in a temporary folder; returns what is written to the results."""
    here, began = Path.cwd(), time.perf_counter()
    devices.keep_compiled(worlds.ROOT / devices.CACHE)  # not in the temporary folder
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            setting = make_setting(options)
            micro_batch = 4 if options.micro_batch == "auto" else min(int(options.micro_batch), options.batch)
            proportions = part_flops(setting)
            with torch.compiler.set_stance("force_eager"):  # compiling takes minutes, and another's losses aren't
                losses = compare_losses(setting, micro_batch, steps=1 if options.quick else 2)
            rate = matmul_rate(options.device, DTYPES[options.precision])
            rows, where = measure(options, setting)
            add_ratios(rows, rate)
        finally:
            os.chdir(here)
    return {
        **results.about(options),
        "matmul_flop_per_second": rate,
        "flop": proportions,
        "losses": losses,
        "contenders": rows,
        "seconds": time.perf_counter() - began,
        "profile": where,
    }


def part_flops(setting: Setting) -> dict[str, int]:
    """Returns the FLOPs of a forward: an image through UNet and VAE encoder, a prompt through the text encoder."""
    model, side = setting.params.model, setting.params.precompute.resolution
    family = families.load(model.family, model.path, ("vae", "text", "denoiser"), setting.device)
    cond, moments = family.encode_prompt([""]), family.encode_image(torch.zeros(1, 3, side, side))
    told = family.image_cond((side, side), (0, 0), (side, side))
    cond |= {name: value[None].to(setting.device) for name, value in told.items()}
    t = torch.zeros(1, dtype=torch.long, device=setting.device)
    with torch.no_grad():
        return {
            "unet": counted(lambda: family.denoise(moments["mean"], t, cond)),
            "vae_encode": counted(lambda: family.encode_image(torch.zeros(1, 3, side, side))),
            "text": counted(lambda: family.encode_prompt([""])),
        }


def main() -> None:
    try:
        options = parse()
        if options.peer_checkout:
            print(checkouts.run(options))
            return
        os.environ |= {"DIFFALIGN_DEVICE": options.device, "DIFFALIGN_PRECISION": options.precision}  # for the stages
        os.environ.setdefault("DIFFALIGN_COMPILE", str(int(options.device == "cuda")))  # as a long run decides
        found = run(options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    print(results.markdown(found))
    if options.out:
        print(f"written: {results.write(found, options.out)}")


if __name__ == "__main__":
    main()
