"""Rows a second of ingest on Pick-a-Pic's kind of files, beside what merely decoding their images takes.

`python -m benchmarks.ingest [--rows 1000]` writes rows of two new 512 px JPEGs (about 110 kB each) into a temporary
folder, decodes them in full with as many threads as ingest, then runs the stage, in turns; prints the best of the
rounds of each, by the clock and by CPU time (which other work on the machine disturbs less), the ratios, and the peak
memory. Pick-a-Pic shows most images in several rows, so real rows are at most this dear.
"""

import argparse
import io
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from diffalign.config.load import load, parse
from stages import ingest
from tests.helpers import pickapic

ROUNDS = 3


def picture(seed: int) -> bytes:
    """Returns a JPEG of soft colours under film grain, which makes it as large as a photograph."""
    rng = np.random.default_rng(seed)
    colours = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize((512, 512))
    grain = rng.normal(0, 9, (512, 512, 1))
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(colours) + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def decode_all(datas: list[bytes]) -> None:
    """Decodes all images in full, in threads."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(lambda data: Image.open(io.BytesIO(data)).load(), datas):
            pass


def rates(work: Callable[[], object], count: int) -> tuple[float, float]:
    """Returns the rows a second, by the clock and by CPU time."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return count / (time.perf_counter() - clock), count / (time.process_time() - cpu)


def main() -> None:
    """Prints parameters, commit, rates, ratios and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000)
    count = parser.parse_args().rows
    root = Path(__file__).resolve().parent.parent
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=root, text=True).strip()
    raw = load(root / "params.yaml").model_dump()
    raw["data"]["path"] = "raw"
    values = parse(raw)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        datas = list(pool.map(picture, range(2 * count)))
    best = {"full decode": (0.0, 0.0), "ingest": (0.0, 0.0)}
    works: dict[str, Callable[[], object]] = {
        "full decode": lambda: decode_all(datas),
        "ingest": lambda: ingest.run(values),
    }
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rows = [pickapic.row(n, jpg_0=datas[2 * n], jpg_1=datas[2 * n + 1]) for n in range(count)]
        pickapic.write(Path("raw/train-0.parquet"), rows, row_group_size=100)
        for _ in range(ROUNDS):
            for name, work in works.items():
                clock, cpu = rates(work, count)
                best[name] = max(best[name][0], clock), max(best[name][1], cpu)
        os.chdir(root)
    size, memory = sum(map(len, datas)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"commit {commit}, {count} rows, {size / len(datas) / 1000:.0f} kB an image, {os.cpu_count()} cores")
    for name, (clock, cpu) in best.items():
        print(f"{name:12} {clock:8.1f} rows/s, {cpu:8.1f} rows per CPU second")
    decode, whole = best["full decode"], best["ingest"]
    print(f"ratio        {whole[0] / decode[0]:8.2f}         {whole[1] / decode[1]:8.2f}")
    print(f"peak memory {memory:.0f} MB, of it {2 * size / 1e6:.0f} MB the benchmark's own images and rows")


if __name__ == "__main__":
    main()
