"""A policy's gallery for tests: pictures of discs, and the manifest that generate would write."""

from collections.abc import Callable, Sequence
from pathlib import Path

from diffalign.core import records
from diffalign.core.files import sha256_bytes
from diffalign.generation.gallery import Entry, Manifest, PromptCount
from tests.helpers import pickapic


def write_gallery(
    folder: Path,
    prompts: Sequence[str],
    first: int = 0,
    size: int = 64,
    draw: Callable[[int], bytes] | None = None,
) -> None:
    """Writes an image for each prompt n, `draw(n)`, or else `pickapic.image(first + n)`."""
    folder.mkdir(parents=True)
    entries = []
    for n, prompt in enumerate(prompts):
        data = draw(n) if draw else pickapic.image(first + n, (size, size), "PNG")
        (folder / f"{n}.png").write_bytes(data)
        about = {"prompt": prompt, "set": "test", "category": None, "prompt_index": n, "seed": 0}
        entries.append(Entry(file=f"{n}.png", sha256=sha256_bytes(data), **about))
    manifest = Manifest(
        schema=3,
        policy=folder.name,
        noise_seed=0,
        sets=(PromptCount(name="test", prompts=len(prompts), asked=None, in_training=0),),
        seeds=1,
        sampler={"name": "ddim"},
        steps=2,
        guidance=1.0,
        resolution=size,
        dtype="float32",
        images=tuple(entries),
    )
    records.write(folder / "manifest.json", manifest)
