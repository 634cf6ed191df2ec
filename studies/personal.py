"""The study's group `personal`: makes personal policies in a project folder of its own, and has raters judge them.

It leaves `metrics/personal.json`: every policy's win rate over the base by every group's utility, and the claims.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffalign.config.load import parse
from diffalign.config.params import Params
from diffalign.core import files, records, yaml_file
from diffalign.core.code import code_hash
from diffalign.data.comparisons import table as comparisons
from diffalign.evaluation import scoring, statistics
from diffalign.evaluation.personal import JUDGE
from diffalign.evaluation.relabel import Asked
from diffalign.generation import gallery as galleries
from diffalign.reporting.format import interval, percent
from diffalign.rewards import reward as rewards
from diffalign.runtime.environment import default_device
from stages import generate, train
from studies import claims, relabel
from studies import personal_world as world
from studies.claims import BASE, Found
from studies.job import INPUTS
from studies.kept import AGAIN
from studies.run import inside, once

FOLDER, OUT = Path("runs/study/personal"), Path("metrics/personal.json")
ANSWERS = Asked(answers=4, noise=0.15, tie_below=0.04, seed=0)
"""Each comparison is answered by four of the twelve raters: about 500 answers a rater in the train split."""
STAGES = ("train", "generate", "score")
Scores = Mapping[str, Mapping[str, list[float]]]
"""By policy, then by group: the utility of each image."""


def run(values: Params, prompts: int, steps: int | None) -> str:
    """Makes what isn't made yet, writes `metrics/personal.json`; returns the matrix and the verdicts as text."""
    asked, root = made_params(values, prompts, steps), Path.cwd()
    prepare(asked, root)
    keys = keys_of(asked, root)
    with inside(root / FOLDER):
        scores = {name: scored(asked, name, key) for name, key in keys.items()}
        indices = [entry.prompt_index for entry in galleries.read(Path("images") / BASE).entries]
    how = {key: getattr(values.evaluate, key) for key in ("confidence", "seed")} | {
        "resamples": values.evaluate.bootstrap
    }
    found = summary(scores, indices, how)
    files.write_json(OUT, {"prompts": prompts, "steps": steps, **found})
    return text(found)


def made_params(values: Params, prompts: int, steps: int | None) -> Params:
    """Returns the project's params with the personal policies, and the raters as the only judge."""
    raw = values.model_dump(mode="json")
    base, dpo = raw["policies"][values.evaluate.baseline], raw["policies"]["dpo"]
    raw["policies"] = world.policies(dpo, base, steps)
    raw["generate"] |= {"prompts": {"test": prompts}, "seeds": 1, "overrides": world.overrides()}
    raw |= {"rounds": {}, "reward_models": {}, "rewards": {JUDGE: {"world": world.WORLD, "of": list(world.GROUPS)}}}
    raw["evaluate"] |= {"baseline": BASE, "alarms": {**raw["evaluate"]["alarms"], "held_out": []}}
    raw["probe"] |= {"every": 0, "images": 0, "rewards": []}
    raw["gate"]["conditions"] = [{"figure": "training_alarms", "allowed": []}]  # none of them is promoted
    return parse(raw, "the study's params")


def prepare(values: Params, root: Path) -> None:
    """Makes the project folder: params.yaml, links to the project's shards and models, comparisons by strong raters."""
    folder = root / FOLDER
    files.write_text(folder / "params.yaml", yaml_file.dump(values.model_dump(mode="json")))
    for path in dict.fromkeys([INPUTS[1], values.model.path, values.policies[BASE].init]):
        link = folder / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to((root / path).resolve())
    reward = rewards.load(JUDGE, {"world": world.WORLD, "of": [*world.KNOWN, *world.NEW]}, "cpu")
    source, out, note = root / INPUTS[0], folder / INPUTS[0], folder / "asked"
    key = f"{files.sha256_file(source / comparisons.COMPARISONS)} {ANSWERS} {reward.version}"
    if not note.exists() or note.read_text() != key:
        relabel.by_raters(source, out, reward, ANSWERS, values.data.max_image_pixels)
        files.write_text(note, key)


def keys_of(values: Params, root: Path) -> dict[str, str]:
    """Returns of each policy a hash of what its images' scores depend on; that of its init's policy is in it."""
    shared: list[Any] = [(root / FOLDER / "asked").read_text(), *(code_hash(stage) for stage in STAGES)]
    shared += [files.sha256_file(root / INPUTS[1] / "manifest.json"), files.hash_folder(root / values.model.path)]
    shared.append(values.model_dump(mode="json", include={"model", "pairs", "precompute", "generate", "rewards"}))
    found: dict[str, str] = {}
    for name, policy in values.policies.items():
        init = found.get(Path(policy.init).name, policy.init)
        parts = [policy.model_dump(mode="json"), init, *shared]
        found[name] = files.sha256_bytes(files.canonical_json(parts).encode())
    return found


def scored(values: Params, name: str, key: str) -> dict[str, list[float]]:
    """Trains a policy, makes its images and scores them by group, unless that was done; works in the project folder."""
    file, said = Path("scores") / f"{name}.json", f"study: personal: {name}"
    seconds = once(f"train@{name}", key, lambda: train.run(values, name))
    seconds += once(f"generate@{name}", key, lambda: generate.run(values, name))
    seconds += once(f"score@{name}", key, lambda: score(values, name, file))
    sys.stderr.write(f"{said} took {seconds:.0f} s\n")
    return records.plain(file, world.GROUPS, AGAIN)


def score(values: Params, name: str, file: Path) -> None:
    """Writes the utilities of a policy's images, by group."""
    reward = rewards.load(JUDGE, values.model_dump()["rewards"][JUDGE], default_device())
    gallery = galleries.read(Path("images") / name)
    found = scoring.score_gallery(gallery, lambda images, texts: rewards.score_images(reward, images, texts), JUDGE)
    files.write_json(file, {group: found[f"{JUDGE}_{group}"].tolist() for group in world.GROUPS})


def summary(scores: Scores, indices: list[int], how: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the matrix, policy by group, and the claims with their verdicts; `indices` name the images' prompts."""

    def contest(a: tuple[str, str], b: tuple[str, str]) -> dict[str, Any]:
        first, second = (np.array(scores[policy][group]) for policy, group in (a, b))
        found = statistics.rate(statistics.outcomes(first, second), indices, **how)
        return {"win_rate": found.rate, "ci_low": found.low, "ci_high": found.high, "seeds": 1, "meant": 1}

    sides = {world.by(policy, group): (policy, group) for policy in scores for group in world.GROUPS}
    pairs = {pair for claim in world.CLAIMS for line in claim.lines for pair in line.contests}
    contests = {pair: contest(*(sides[name] for name in pair)) for pair in sorted(pairs)}
    return {
        "groups": list(world.GROUPS),
        "matrix": {
            policy: {group: contest((policy, group), (BASE, group)) for group in world.GROUPS}
            for policy in scores
            if policy != BASE
        },
        "claims": [claims.verdict(claim, Found(contests, {}), world.labels()) for claim in world.CLAIMS],
    }


def text(found: Mapping[str, Any]) -> str:
    """Returns the matrix and the verdicts for a terminal."""
    lines = ["Over the base, by each group's own utility:"]
    lines.append(" " * 14 + "".join(f"{group:>22}" for group in found["groups"]))
    for policy, row in found["matrix"].items():
        cells = (f"{percent(cell['win_rate'])} ({interval(cell)})" for cell in row.values())
        lines.append(f"{policy:<14}" + "".join(f"{cell:>22}" for cell in cells))
    for claim in found["claims"]:
        held = [line["holds"] for line in claim["lines"]]
        lines.append(f"{claim['verdict']}: {claim['claim']} ({held.count(True)} of {len(held)} lines hold)")
        lines += [f"  {line['expected']}: {line['seen']}" for line in claim["lines"]]
    return "\n".join(lines)
