"""A report of PartiPrompts' size: 1,632 prompts, all of them shown, in one file under 15 MB."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffalign.core.files import sha256_bytes, write_bytes, write_json, write_json_lines
from diffalign.generation.pipeline import png
from stages import report
from tests.helpers import browser
from tests.helpers.project import make_params
from tests.helpers.report_inputs import MADE, POLICIES, SCORES, evaluation, write_inputs

PROMPTS, SIDE, DISTINCT = 1632, 288, 8


def photograph(seed: int) -> bytes:
    """The PNG of soft colours under film grain, as hard to compress as a photograph."""
    rng = np.random.default_rng(seed)
    colours = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize((SIDE, SIDE))
    grain = rng.normal(0, 9, (SIDE, SIDE, 1))
    return png((np.asarray(colours) + grain).clip(0, 255).astype(np.uint8))


def write_many(folder: Path) -> None:
    """1,632 prompts of every policy; the files of each are eight, since only their number and size matter."""
    write_inputs(folder)
    lines: list[dict[str, Any]] = []
    for number, policy in enumerate(POLICIES):
        shutil.rmtree(folder / "images" / policy)
        files = [photograph(DISTINCT * number + i) for i in range(DISTINCT)]
        for i, data in enumerate(files):
            write_bytes(folder / "images" / policy / f"{i}.png", data)
        entries = [
            {
                "file": f"{i % DISTINCT}.png",
                "prompt": f"a photograph of thing number {i}, in the style of a report that has to fit on a phone",
                "prompt_index": i,
                "seed": 0,
                "sha256": sha256_bytes(files[i % DISTINCT]),
                "set": "test",
                "category": f"category {i % 12}",
            }
            for i in range(PROMPTS)
        ]
        about = {
            "schema": 3,
            "policy": policy,
            "noise_seed": int(policy == "base_again"),
            "seeds": 1,
            "resolution": SIDE,
        }
        sets = [{"name": "test", "prompts": PROMPTS, "asked": PROMPTS, "in_training": 0}]
        write_json(folder / "images" / policy / "manifest.json", {**about, "sets": sets, **MADE, "images": entries})
        named = ("file", "sha256", "prompt", "prompt_index", "seed")
        lines += [
            {"policy": policy, **{key: entry[key] for key in named}, "scores": {"oracle": i % 97 / 97}}
            for i, entry in enumerate(entries)
        ]
    write_json_lines(folder / SCORES, lines)
    write_json(folder / "metrics/evaluate.json", evaluation())


@pytest.mark.nightly
def test_all_of_1632_prompts_fit_into_15_mb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """base, dpo and sft side by side: 4,896 images and 24 more among the best and the worst."""
    write_many(tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = {"title": "Large", "best": 4, "worst": 4, "random": PROMPTS, "seed": 0}
    report.run(make_params(tmp_path, POLICIES, report=settings, precompute={"resolution": SIDE}))
    file = Path("reports/report.html")
    print(json.dumps({"bytes": file.stat().st_size}))
    assert 5_000_000 < file.stat().st_size < 15_000_000
    assert file.read_text().count("<img ") == 3 * (PROMPTS + 8)
    if browser.PROGRAM is not None:
        with browser.Browser() as chromium:
            chromium.open(file, 375, 800)
            assert chromium.evaluate("document.documentElement.scrollWidth") <= 375
            assert chromium.evaluate("document.images.length") == 3 * (PROMPTS + 8)
