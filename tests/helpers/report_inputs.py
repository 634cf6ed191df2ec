"""What the stages before the report leave, written by hand, and the page that it makes of them, parsed."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from diffalign.core.files import sha256_bytes, write_bytes, write_json, write_json_lines, write_text
from diffalign.generation.pipeline import png
from tests.helpers import evaluations
from tests.helpers.world import CAPTIONS, HOSTILE

POLICIES = {
    "base": {"method": "none", "noise_seed": 0},
    "base_again": {"method": "none", "noise_seed": 1},
    "dpo": {"method": "dpo"},
    "sft": {"method": "sft"},
}
PROMPTS = [*CAPTIONS, *HOSTILE]
SETTINGS = {"title": 'Shapes </title><script>alert("x")</script> & more', "best": 3, "worst": 2, "random": 17}
SAMPLER = {"name": "dpmpp_2m", "spacing": "trailing"}
MADE = {"sampler": SAMPLER, "steps": 2, "guidance": 4.0, "rules": {}, "dtype": "float32"}
SCORES = Path("metrics/scores/oracle.jsonl")
ORACLE = {
    "name": "oracle",
    "version": "1",
    "range": [0.0, 1.0],
    "trained_on": "Nothing: a program. In-family.",
    "families": ["shapes"],
    "differentiable": False,
}
SHADE = {"base": 10, "base_again": 60, "dpo": 200, "sft": 120}


def write_inputs(folder: Path, size: int = 64) -> None:
    """What the stages before leave: flat images, dpo's score above the base's for all captions but two."""
    rng = np.random.default_rng(0)
    lines = [line for name in POLICIES for line in write_images(folder / "images" / name, name, size)]
    for name in POLICIES:
        write_text(folder / "curves" / f"{name}.jsonl", curve(rng) if name in ("dpo", "sft") else "")
    write_json_lines(folder / SCORES, lines)
    write_json(
        folder / "metrics/scores/oracle.json",
        {"schema": 2, "reward": ORACLE, "pairs": [], "rescored": [], "shuffled": []},
    )
    write_json(folder / "metrics/evaluate.json", evaluation())
    rejects = {"bad_label": 2, "<script>alert(2)</script>": 1}
    counts = {"schema": 1, "rows": 2250, "comparisons": 2238, "rejects": rejects}
    write_json(
        folder / "metrics/ingest.json",
        counts | {"simulated": True, "notes": ["20 raters on an oracle"], "families": []},
    )


def write_images(folder: Path, name: str, size: int) -> list[dict[str, Any]]:
    """Writes a policy's flat images with their manifest, and returns the lines of their scores."""
    entries, lines = [], []
    for i, prompt in enumerate(PROMPTS):
        data = png(np.full((size, size, 3), (SHADE[name], i, 90), np.uint8))
        write_bytes(folder / f"{i:05d}-0.png", data)
        about = {"file": f"{i:05d}-0.png", "sha256": sha256_bytes(data), "prompt": prompt, "prompt_index": i, "seed": 0}
        entries.append(about | {"set": "test", "category": None})
        gain = 0.01 * i * {"dpo": 1, "sft": 0.5}.get(name, 0) * (-1 if i < 2 else 1)
        lines.append({"policy": name, **about, "scores": {"oracle": None if prompt in HOSTILE else 0.5 + gain}})
    made = {
        "schema": 3,
        "policy": name,
        "noise_seed": int(name == "base_again"),
        "sets": [{"name": "test", "prompts": len(PROMPTS), "asked": len(PROMPTS), "in_training": 0}],
        "seeds": 1,
        **MADE,
        "resolution": size,
    }
    write_json(folder / "manifest.json", {**made, "images": entries})
    return lines


def curve(rng: np.random.Generator) -> str:
    """Returns the lines of a training's curve, whose loss falls with noise."""
    lines = [
        {
            "step": s,
            "loss": 0.7 - s / 1000 + rng.normal(0, 0.02),
            "implicit_accuracy": 0.5 + s / 1000,
            "winner_change": -1e-5 * s,
            "loser_change": 3e-5 * s,
            "lr": 1e-5,
            "grad_norm": 1.0,
        }
        for s in range(5, 155, 5)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def evaluation() -> dict[str, Any]:
    def row(policy: str, wins: int, ties: int, low: float, high: float) -> dict[str, Any]:
        n = len(CAPTIONS)
        rate = {"win_rate": (wins + ties / 2) / n, "ci_low": low, "ci_high": high}
        counts = {"prompts": n, "wins": wins, "ties": ties, "losses": n - wins - ties}
        return evaluations.comparison(policy, same_noise=policy != "base_again", **counts, **rate)

    rewards = [
        {"policy": p, "accuracy": a, "ci_low": a - 0.04, "ci_high": a + 0.04, "pairs": 420, "ceiling": 0.7512}
        for p, a in (("dpo", 0.661), ("sft", 0.52))
    ]
    comparisons = [row("base_again", 6, 0, 0.3, 0.7), row("dpo", 10, 1, 0.71, 0.98), row("sft", 7, 0, 0.4, 0.8)]
    judge = {**ORACLE, "accuracy": 0.7512, "ci_low": 0.7, "ci_high": 0.8, "pairs": 420, "tie_band": 0.0}
    heads = [{**row("dpo", 10, 1, 0.7, 0.97), "baseline": "sft"}]
    return evaluations.evaluation(
        comparisons=comparisons, head_to_heads=heads, implicit_reward=rewards, rewards=[judge]
    )


class Page(HTMLParser):
    """The tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data
