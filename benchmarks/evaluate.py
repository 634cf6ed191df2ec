"""Images a second of evaluation, generation and scoring: diffalign's batches beside a loop over prompts, in one run.

`python -m benchmarks.evaluate [--arch tiny] [--device cpu] [--out NAME]` checks that both ways make the same images
from the same noise by the same sampler, with the same scores, and then times them in turns (A B A B ...), networks
loaded before. `tiny` is the demo's model, judged by the oracle; `sd15` has the published size and random weights,
judged by a CLIP of PickScore's size with random weights. `per prompt` is our re-writing (evaluators.py).
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import results, worlds
from benchmarks.evaluators import Contender, Ours, PerPrompt, Setting, turn
from diffalign.config.load import load
from diffalign.core.errors import UserError
from diffalign.planning.flops import counted, matmul_rate
from diffalign.runtime import devices

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FIRST = "per prompt"
"""The contender that the ratios are to."""
CONTENDERS: dict[str, Callable[[Setting], Contender]] = {
    FIRST: PerPrompt,
    "ours": Ours,
    "ours, compiled": lambda setting: Ours(setting, compiled=True),
}
LEVELS = 2
"""Of 255: how far a pixel of ours may be from the loop's in fp32; a batch rounds otherwise than an image alone."""
PROMPTS = worlds.ROOT / "assets/comparisons/test_unique-00000-of-00001.parquet"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", choices=["tiny", "sd15"], default="tiny")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32", help="bf16 by autocast, of all ways")
    parser.add_argument("--batch", type=int, default=32, help="images in a forward of ours")
    parser.add_argument("--images", type=int, default=64, help="images a timed turn, one a prompt")
    parser.add_argument("--steps", type=int, default=10, help="sampling steps of dpmpp_2m")
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a first look: one turn of one batch")
    parser.add_argument("--contenders", nargs="*", choices=list(CONTENDERS), help="all, compiled on a GPU only")
    parser.add_argument("--out", help="writes benchmarks/results/OUT.json and .md")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repetitions, options.images = 1, options.batch
    if options.contenders is None:
        options.contenders = [name for name in CONTENDERS if options.device == "cuda" or "compiled" not in name]
    if FIRST not in options.contenders or options.images < options.batch:
        raise UserError(f"expected {FIRST!r} among --contenders, and --images of at least --batch {options.batch}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: expected a CUDA GPU that PyTorch can use, found none")
    return options


def make_setting(options: argparse.Namespace, folder: Path) -> Setting:
    """Returns the setting; what has random weights is made in a folder."""
    generate = load(worlds.ROOT / "params.yaml").generate
    model, reward = worlds.ROOT / "assets/tiny-sd", ("oracle", {})
    if options.arch != "tiny":
        model = folder / "model"
        worlds.make_model(worlds.ARCHITECTURES[options.arch], model)
        reward = (
            "pickscore",
            {"path": str(worlds.make_clip(folder / "clip")), "batch_size": options.batch, "sha256": None},
        )
    return Setting(
        family=worlds.ARCHITECTURES[options.arch].family,
        model=model,
        resolution=worlds.ARCHITECTURES[options.arch].pixels,
        sampling={
            "sampler": {"name": "dpmpp_2m", "spacing": generate.sampler.spacing},
            "steps": options.steps,
            "guidance": options.guidance,
        },
        reward=reward[0],
        reward_settings=reward[1],
        prompts=prompts(options.images),
        device=options.device,
        precision=options.precision,
        batch=options.batch,
    )


def prompts(count: int) -> tuple[str, ...]:
    """Returns captions of the test split's comparisons; UserError where there are fewer distinct ones."""
    from pyarrow import parquet

    found = tuple(dict.fromkeys(parquet.read_table(PROMPTS, columns=["caption"])["caption"].to_pylist()))
    if len(found) < count:
        raise UserError(f"--images: expected at most the {len(found)} prompts of {PROMPTS.name}, got {count}")
    return found[:count]


def compare(folders: dict[str, Path], scores: dict[str, Any], setting: Setting) -> dict[str, Any]:
    """Compares images and scores with the loop's; AssertionError where a pixel in fp32 is more than LEVELS apart."""
    found = {}
    for name, folder in folders.items():
        pairs = [(pixels(folders[FIRST] / job.file), pixels(folder / job.file)) for job in setting.jobs]
        apart = np.stack([np.abs(one - other) for one, other in pairs])
        found[name] = {
            "largest": int(apart.max()),
            "mean": float(apart.mean()),
            "equal": float((apart == 0).mean()),
            "score": float(np.abs(scores[name] - scores[FIRST]).max()),
        }
    worst = max(row["largest"] for row in found.values())
    if setting.precision == "fp32":
        assert worst <= LEVELS, f"images differ by {worst} of 255, expected at most {LEVELS}: {found}"
    return found


def pixels(file: Path) -> Any:
    """Returns an image as int16 [H, W, 3]."""
    return np.asarray(Image.open(file).convert("RGB"), np.int16)


def measure(options: argparse.Namespace, setting: Setting, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs all contenders in turns, each loaded and warmed up once; returns a row for each, and how images compare."""
    built: dict[str, Contender] = {}
    for name in options.contenders:
        built[name] = CONTENDERS[name](setting)
        turn(built[name], folder / name, setting.jobs[: setting.batch], setting.device)  # warms up, and compiles
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in built}
    for number in range(options.repetitions):
        for name, contender in built.items():
            turns[name].append(taken := turn(contender, folder / name, setting.jobs, setting.device))
            rate = options.images / (taken["generate"] + taken["score"])
            print(f"turn {number + 1} {name}: {rate:.2f} images/s", flush=True)
    scores = {name: of_one[-1]["scores"] for name, of_one in turns.items()}
    compared = compare({name: folder / name for name in built}, scores, setting)
    return {name: row(of_one, options.images) for name, of_one in turns.items()}, compared


def row(turns: list[dict[str, Any]], images: int) -> dict[str, Any]:
    """Returns a contender's rates, turn by turn: whole, of each part, and by CPU time."""
    rates = [images / (t["generate"] + t["score"]) for t in turns]
    return {
        "rates": rates,
        "images_per_second": statistics.median(rates),
        "generate_rates": [images / t["generate"] for t in turns],
        "score_rates": [images / t["score"] for t in turns],
        "cpu_rates": [images / t["cpu_seconds"] for t in turns],
    }


def add_ratios(rows: dict[str, Any], flop: int, rate: float) -> None:
    """Adds each row's ratios to the loop, turn by turn, and its generation's share of the matrix products' rate."""
    for found in rows.values():
        for ratio, kind in (("ratios", "rates"), ("generate_ratios", "generate_rates"), ("cpu_ratios", "cpu_rates")):
            found[ratio] = [a / b for a, b in zip(found[kind], rows[FIRST][kind], strict=True)]
        found["share_of_matmul"] = flop * statistics.median(found["generate_rates"]) / rate


def flop_per_image(setting: Setting, folder: Path) -> int:
    """Returns the FLOPs of making one image, in a batch of one."""
    contender = Ours(setting)
    folder.mkdir()
    return counted(lambda: contender.generate(folder, setting.jobs[:1]))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the whole benchmark in a temporary folder; returns what is written to the results."""
    began = time.perf_counter()
    devices.keep_compiled(worlds.ROOT / devices.CACHE)  # not in the temporary folder
    if options.device == "cuda":
        devices.set_up(torch.device("cuda"), options.precision)  # for all ways alike
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        setting = make_setting(options, folder)
        rate = matmul_rate(options.device, DTYPES[options.precision])
        rows, compared = measure(options, setting, folder)
        flop = flop_per_image(setting, folder / "flop")
    add_ratios(rows, flop, rate)
    return {
        **results.about(options),
        "matmul_flop_per_second": rate,
        "flop_per_image": flop,
        "reward": setting.reward,
        "sampling": setting.sampling,
        "apart": compared,
        "contenders": rows,
        "seconds": time.perf_counter() - began,
    }


def markdown(found: dict[str, Any]) -> str:
    """Returns the table."""
    lines = [
        *results.heading("evaluate", found),
        f"{found['flop_per_image'] / 1e9:.4g} GFLOP an image, {found['sampling']['steps']} steps; judge: "
        f"{found['reward']}.",
        "",
        f"| way | images/s | times {FIRST} | by CPU time | generation alone | generation, images/s | scoring, images/s "
        "| of matmul |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in found["contenders"].items():
        kinds = ("rates", "ratios", "cpu_ratios", "generate_ratios", "generate_rates", "score_rates")
        cells = " | ".join(results.spread(one[kind]) for kind in kinds)
        lines.append(f"| {name} | {cells} | {one['share_of_matmul']:.0%} |")
    apart = "; ".join(
        f"{name}: at most {one['largest']} of 255 levels, {one['mean']:.1e} on average, {one['equal']:.2%} of values "
        f"equal, scores at most {one['score']:.1e} apart"
        for name, one in found["apart"].items()
        if name != FIRST
    )
    lines += [
        "",
        f"Medians of {found['params']['repetitions']} turns of {found['params']['images']} images [lowest, highest]; "
        f"ratios turn by turn. The images against the loop's: {apart}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    try:
        options = parse()
        os.environ["DIFFALIGN_DEVICE"] = options.device
        found = run(options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    print(markdown(found))
    if options.out:
        print(f"written: {results.write(found, options.out, markdown)}")


if __name__ == "__main__":
    main()
