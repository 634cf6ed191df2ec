"""A policy's model card as Markdown with the hub's YAML head. Captions and notes are others' text: all is escaped."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from diffalign.core import files
from diffalign.core.home import COMMAND
from diffalign.reporting.card_file import CARDS, PICTURE, TEXT, Card, WinRate
from diffalign.reporting.format import percent

CAPTION = 200
"""Characters of a caption that are shown."""
FAMILY_TAGS = {
    "StableDiffusionPipeline": "stable-diffusion",
    "StableDiffusionXLPipeline": "stable-diffusion-xl",
    "StableDiffusion3Pipeline": "stable-diffusion-3",
}
SPECIAL = re.compile(r"([!-/:-@\[-`{-~])")
"""ASCII's punctuation, each of which Markdown may take for itself, and none behind a backslash."""


def escaped(text: str, limit: int | None = None) -> str:
    """Returns text of others as one line of Markdown that shows it and does nothing; a longer one is cut."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    cut = line if limit is None or len(line) <= limit else line[:limit] + "…"
    return SPECIAL.sub(r"\\\1", cut)


def write(card: Card, folder: Path, loading: str) -> None:
    """Writes a policy's card into the folder of its weights, with its picture; see `markdown`."""
    files.write_text(folder / TEXT, markdown(card, loading))
    picture = CARDS / card.policy / PICTURE
    if picture.is_file():
        shutil.copy(picture, folder)


def markdown(card: Card, loading: str) -> str:
    """Returns the README.md of a policy; `loading` is Markdown that says how it's loaded."""
    parts = [
        f"---\n{head(card)}---",
        f"# {escaped(card.title)}: {card.policy}",
        summary(card),
        picture(card),
        results(card),
        f"## Alarms\n\n{bullets(card.alarms) or 'No alarm was raised.'}",
        training(card),
        data(card),
        f"## What the figures don't say\n\n{bullets(card.caveats)}",
        f"## How to load it\n\n{loading}",
        license_text(card),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def head(card: Card) -> str:
    """Returns the YAML head, as the hub reads it; what isn't known isn't in it."""
    found: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": tags(card)}
    if card.base_repo:
        found["base_model"] = card.base_repo
        found["base_model_relation"] = "adapter" if card.adapter == "lora" else "finetune"
    if card.data_repos:
        found["datasets"] = list(card.data_repos)
    if card.license:
        found["license"] = card.license.id
        if card.license.name:
            found |= {"license_name": card.license.name, "license_link": card.license.link}
    return str(yaml.safe_dump(found, sort_keys=True, allow_unicode=True))


def tags(card: Card) -> list[str]:
    """Returns the tags by which the hub finds it."""
    own = [FAMILY_TAGS.get(card.pipeline, ""), card.method if card.adapter != "none" else ""]
    return ["text-to-image", "diffusers", *(tag for tag in own if tag), *(["lora"] if card.adapter == "lora" else [])]


def summary(card: Card) -> str:
    """Returns the first sentences: what it is, and its first win rate."""
    if card.adapter == "none":
        return f"Not trained: the weights are those of `{card.base}`."
    how = "LoRA on" if card.adapter == "lora" else "All weights of the denoiser of"
    base = card.base_repo or card.base
    text = f"{how} `{base}`, aligned with human preferences by {card.method.upper()}."
    if card.simulated:
        text = text.replace("human preferences", "simulated preferences (programs answered, not people)")
    first = next(iter(card.win_rates), None)
    if first is None:
        return f"{text} No judge compared its images with the base's."
    return (
        f"{text} Its images beat those of `{first.baseline}` in {percent(first.rate)} {bounds(first)} of cases by "
        f"{first.judge}{' (a program)' if first.simulated else ''}, ties counting half."
    )


def picture(card: Card) -> str:
    """Returns the picture and its captions."""
    if not card.captions:
        return ""
    baseline = next((rate.baseline for rate in card.win_rates), "the baseline")
    listed = "\n".join(f"{i}. {escaped(caption, CAPTION)}" for i, caption in enumerate(card.captions, 1))
    return (
        f"![Images of {baseline}, left, and of {card.policy}, right, for prompts drawn at random]({PICTURE})\n\n"
        f"Prompts drawn at random, not picked; {baseline} left, {card.policy} right; in their order:\n\n{listed}"
    )


def results(card: Card) -> str:
    """Returns the table of win rates, the judges, and the gate's verdict."""
    if not card.win_rates:
        return ""
    rows = [
        f"| {rate.judge} | {rate.set} | {rate.baseline} | {percent(rate.rate)} | {bounds(rate)} | {rate.prompts:,} | "
        f"{'yes' if rate.in_family else 'no'} |"
        for rate in card.win_rates
    ]
    judges = [f"{judge.name} {judge.version}: {judge.trained_on}" for judge in card.judges]
    gate = f"\n\nThe gate's verdict: {card.gate}." if card.gate else ""
    made = ", ".join(f"{key} {escaped(value)}" for key, value in card.sampling.items())
    return (
        "## Win rates\n\n"
        f"| judge | prompts | over | win rate | {card.confidence:.0%} interval | prompts judged | in-family |\n"
        f"|---|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
        "In-family: the judge learnt from what the policy learnt from, and favours it.\n\n"
        f"{bullets(judges)}\n\nImages: {card.resolution} pixels a side; {made}.{gate}"
    )


def bounds(rate: WinRate) -> str:
    """Returns an interval as `[87.0, 94.1]`, in percent; nothing where it has none."""
    return "" if rate.low is None or rate.high is None else f"[{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def training(card: Card) -> str:
    """Returns the method and the settings."""
    if card.adapter == "none":
        return ""
    rows = "\n".join(f"| {key} | {escaped(value)} |" for key, value in sorted(card.settings.items()))
    code = "" if card.commit == "none" else f" Code: commit {card.commit}."
    return f"## Training\n\n{card.method.upper()}, with these settings.{code}\n\n| | |\n|---|---|\n{rows}"


def data(card: Card) -> str:
    """Returns what it learnt from."""
    places = ", ".join(f"`{place}`" for place in card.data)
    learnt = "" if card.pairs is None else f", {card.pairs:,} pairs of which it learnt from"
    who = "The raters are simulated." if card.simulated else "The raters are people, as far as the data say."
    return f"## Data\n\n{card.comparisons:,} comparisons from {places}{learnt}. {who}"


def license_text(card: Card) -> str:
    """Returns the licence's section."""
    if card.license is None:
        return f"## Licence\n\nThat of `{card.base}` isn't known here: add `license:` to the head before publishing."
    return f"## Licence\n\n{card.license.name or card.license.id}, as its base's."


def of_folder(card: Card, folder: Path) -> str:
    """Returns how a policy's own folder is loaded."""
    base = card.base if card.adapter == "none" else card.base_repo or card.base
    lines = [f'pipeline = DiffusionPipeline.from_pretrained("{base}")']
    if card.adapter == "full":
        return f"Export it first: `{COMMAND} export {card.policy} --to pipeline`, or `--to single-file`."
    return code(lines + ([f'pipeline.load_lora_weights("{folder}")'] if card.adapter == "lora" else []))


def code(lines: Sequence[str]) -> str:
    """Returns lines of Python as a block."""
    return "\n".join(["```python", "from diffusers import DiffusionPipeline", "", *lines, "```"])


def bullets(lines: Sequence[str]) -> str:
    """Returns lines of others' text as a list."""
    return "\n".join(f"- {escaped(line)}" for line in lines)
