"""Reads two folders of images as the sides of a comparison: images are paired by their names."""

import sys
from collections.abc import Mapping
from pathlib import Path, PurePath

from diffalign.commands.score import say
from diffalign.core.errors import UserError
from diffalign.core.progress import Progress
from diffalign.data import captioned
from diffalign.data.captioned import Captioned, Rejected
from diffalign.generation.gallery import Entry, Gallery

SET = "folders"


def read(folders: Mapping[str, Path], table: Path | None, max_pixels: int) -> dict[str, Gallery]:
    """Returns each side's images, by the sides' names, that both have: of one name but for its suffix, one caption.

    A caption that only one side has is for both. Left out and said on stderr: images of one side only, without a
    caption, with two, or that can't be read. Raises UserError where none is left, or where sizes differ.
    """
    named = {side: {PurePath(f).with_suffix(""): (f, c) for f, c in captioned.captions(folder, table).items()}
             for side, folder in folders.items()}  # fmt: skip
    (a, of_a), (b, of_b) = named.items()
    shared = [key for key in of_a if key in of_b]
    if alone := len(of_a) + len(of_b) - 2 * len(shared):
        sys.stderr.write(f"left out: {alone} images that only one of the folders has\n")
    pairs, rejects = [], list[Rejected]()
    progress = Progress("compare: reads images", len(shared))
    for key in shared:
        first, second = of_a[key], of_b[key]
        if first[1] and second[1] and first[1].strip() != second[1].strip():
            rejects.append(Rejected(first[0], "no_caption", "the sides have two captions for it"))
        else:
            prompt = first[1] or second[1]
            found = [captioned.decoded(folders[side], file, prompt, max_pixels)
                     for side, (file, _) in ((a, first), (b, second))]  # fmt: skip
            rejects += [one for one in found if isinstance(one, Rejected)]
            if all(isinstance(one, Captioned) for one in found):
                pairs.append(((first[0], found[0]), (second[0], found[1])))
        progress.update()
    say(rejects)
    if not pairs:
        raise UserError(
            f"compare: expected images of equal names, with a caption, in {folders[a]} and {folders[b]}, found none. "
            "Put a .txt beside each image of one side, or name a CSV of files and captions: --prompts FILE"
        )
    check_sizes(
        {
            str(folders[side] / file): one.pixels.shape
            for pair in pairs
            for side, (file, one) in zip((a, b), pair, strict=True)
            if isinstance(one, Captioned)
        }
    )
    return {side: gallery(side, folders[side], [pair[i] for pair in pairs], i) for i, side in enumerate((a, b))}


def check_sizes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UserError unless all images are of one size: judges see another picture where it's resized."""
    sizes = {shape[:2]: file for file, shape in shapes.items()}
    if len(sizes) > 1:
        shown = ", ".join(f"{w} × {h} ({file})" for (h, w), file in list(sizes.items())[:3])
        raise UserError(f"compare: expected images of one size, found {shown}. Make them one size first.")


def gallery(side: str, folder: Path, found: list[tuple[str, captioned.Found]], noise: int) -> Gallery:
    """Returns a side's images as a gallery; how they were made isn't known."""
    images = [(file, one) for file, one in found if isinstance(one, Captioned)]
    prompts = {one.prompt: 0 for _, one in images}
    index, entries = {prompt: i for i, prompt in enumerate(prompts)}, []
    for file, one in images:
        entries.append(
            Entry(
                file=file,
                prompt=one.prompt,
                set=SET,
                category=None,
                prompt_index=index[one.prompt],
                seed=prompts[one.prompt],
                sha256=one.sha256,
            )
        )
        prompts[one.prompt] += 1
    height, width = images[0][1].pixels.shape[:2]
    unknown = dict.fromkeys(("sampler", "steps", "guidance", "rules", "dtype"))
    about = {"policy": side, "noise_seed": noise, "seeds": max(prompts.values()), "resolution": f"{width} × {height}"}
    return Gallery(folder, about | unknown, tuple(entries))
