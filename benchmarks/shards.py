"""Samples a second from latent shards: random order through `Shards` against WebDataset's sequential reader.

`python -m benchmarks.shards [--samples 4000] [--size 64]` writes random latents of SD1.5's shape into a temporary
folder, reads them in turns and prints each reader's best of the rounds and the ratio. One process, one thread; both
parse safetensors and turn float16 into float32. The files are in the page cache: what's compared is the readers.
"""

import argparse
import hashlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import webdataset

from diffalign.data.shards import reader as shards
from diffalign.data.shards import writer as shard_writer
from diffalign.data.shards.writer import Sample

ROUNDS = 5


def write(work: Path, count: int, size: int, shard_size: int) -> list[str]:
    """Writes `count` images' moments [4, size, size] and returns their keys."""
    keys = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(count)]
    generator = torch.Generator().manual_seed(0)

    def samples(plan: list[list[str]]) -> Iterator[Sample]:
        for shard in plan:
            for key in shard:
                mean, logvar = torch.randn(2, 4, size, size, generator=generator)
                yield Sample(key, {"mean": mean, "logvar": logvar}, {"width": 8 * size, "height": 8 * size})

    records = shard_writer.write_shards(work, "images", keys, shard_size, samples)
    shard_writer.finish(work, {"images": records, "prompts": []}, shards.fingerprint({}, 8 * size, flips=False), {})
    return keys


def random_order(folder: Path, keys: list[str], seed: int) -> int:
    """Reads all samples in a random order."""
    reader = shards.Shards(folder)
    order = np.random.default_rng(seed).permutation(len(keys))
    return sum(len(reader.get(keys[i])) > 0 for i in order)


def sequential(folder: Path) -> int:
    """Reads all samples as they lie, with WebDataset; nothing is decoded but the tensors."""
    names = [str(path) for path in sorted(folder.glob("images-*.tar"))]
    count = 0
    for sample in webdataset.WebDataset(names, shardshuffle=False):
        tensors = safetensors.torch.load(sample["safetensors"])
        count += len({name: value.float() for name, value in tensors.items()}) > 0
    return count


def rate(read: Callable[[], int], count: int) -> float:
    """Returns the samples a second of one pass."""
    start = time.perf_counter()
    if read() != count:
        raise AssertionError("samples are missing")
    return count / (time.perf_counter() - start)


def main() -> None:
    """Prints parameters, commit, both rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--size", type=int, default=64, help="latent pixels a side; 64 is SD1.5 at 512 px")
    parser.add_argument("--shard-size", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        keys = write(Path(temporary), options.samples, options.size, options.shard_size)
        folder = Path(temporary) / "out"
        ours, theirs = [], []
        for seed in range(ROUNDS):
            ours.append(rate(lambda seed=seed: random_order(folder, keys, seed), len(keys)))
            theirs.append(rate(lambda: sequential(folder), len(keys)))
        start = time.perf_counter()
        shards.verify(folder)
        verified = sum(path.stat().st_size for path in folder.glob("*.tar")) / (time.perf_counter() - start)
    describe = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    print(f"commit {commit or 'none'}, {options}, best of {ROUNDS} rounds")
    print(f"random order, Shards:       {max(ours):8.0f} samples/s")
    print(f"sequential, WebDataset:     {max(theirs):8.0f} samples/s")
    print(f"ratio:                      {max(ours) / max(theirs):8.2f}")
    print(f"verify, all bytes:          {verified / 2**20:8.0f} MiB/s")


if __name__ == "__main__":
    main()
