"""The study's group `personal`: makes personal policies, a project folder a seed, and has raters judge them.

What came of a seed is kept like other runs' results; of all that are there it leaves `metrics/personal.json`.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from diffalign.config.load import parse
from diffalign.config.params import Params
from diffalign.core import files, records, yaml_file
from diffalign.core.code import code_hash
from diffalign.data.comparisons import table as comparisons
from diffalign.evaluation import scoring
from diffalign.evaluation.personal import JUDGE
from diffalign.evaluation.relabel import Asked
from diffalign.generation import gallery as galleries
from diffalign.reporting import personal_file
from diffalign.reporting.made_by import git_commit
from diffalign.rewards import reward as rewards
from diffalign.rewards.reward import Reward
from diffalign.runtime.environment import default_device
from stages import generate, train
from studies import kept, personal_results, relabel
from studies import personal_world as world
from studies.claims import BASE
from studies.job import FOLDER, INPUTS, Study
from studies.kept import AGAIN, Result
from studies.run import inside, once, prompts_of, rounded

OUT = personal_file.FILE
ANSWERS = Asked(answers=4, noise=0.15, tie_below=0.04, seed=0)
"""Each comparison is answered by four of the twelve raters: about 500 answers a rater in the train split."""
STAGES = ("train", "generate", "score")
EXPECTED = 540.0
"""CPU seconds a seed, before any was measured."""
FORMAT = 1
"""Of a seed's results; raised when what is kept of a seed changes."""


def results(job: Study) -> dict[str, Result]:
    """Returns the results of these settings that are there, a seed each, in the order of SEEDS."""
    found = kept.read(job.kept, world.SEEDS)
    return {name: one for name, one in found.items() if kept.current(one, partial(settings, job, name))}


def settings(job: Study, name: str) -> str:
    """Returns a hash of a seed's settings, as `Study.settings` of a run: keys without a value don't count."""
    values, parts = made_params(job, name), ("model", "pairs", "precompute", "generate", "policies", "rewards")
    found = {
        "params": values.model_dump(mode="json", include=set(parts), exclude_none=True),
        "answers": asdict(ANSWERS),
        "judged": raters().version,
        "init": job.hash_model(values.policies[BASE].init),
        "format": FORMAT,
    }
    return files.sha256_bytes(files.canonical_json(found).encode())


def write(job: Study) -> str:
    """Writes `metrics/personal.json` of the seeds that are there and returns it as text; "" where there are none."""
    found, judged = results(job), job.values.evaluate
    if not found:
        return ""
    how = {"resamples": judged.bootstrap, "confidence": judged.confidence, "seed": judged.seed}
    made = personal_results.summary(found, {"split": "test", "prompts": job.prompts, "steps": job.steps}, how)
    files.write_json(OUT, made)
    return personal_results.text(made)


def make(job: Study, name: str) -> Result:
    """Trains a seed's policies one after the other, makes their images and has all groups score them; keeps that."""
    values, folder = made_params(job, name), folder_of(job, name)
    prepare(values, job.root, folder)
    keys, scores, seconds = keys_of(values, job.root, folder), {}, 0.0
    with inside(folder):
        for policy, key in keys.items():
            took, scores[policy] = scored(values, policy, key)
            sys.stderr.write(f"study: {name}: {policy} took {took:.0f} s\n")
            seconds += took
        gallery = galleries.read(Path("images") / BASE)
    about = {"settings": settings(job, name), "commit": git_commit(), **prompts_of(gallery)}
    result = {**about, "scores": scores, "seconds": round(seconds, 1)}
    kept.write(job.kept, name, result)
    return result


def folder_of(job: Study, name: str) -> Path:
    """Returns a seed's project folder."""
    return job.root / FOLDER / world.NAME / f"seed_{world.SEEDS[name]}"


def made_params(job: Study, name: str) -> Params:
    """Returns the project's params with a seed's personal policies, and the raters as the only judge."""
    values = job.values
    raw = values.model_dump(mode="json")
    base, dpo = raw["policies"][values.evaluate.baseline], raw["policies"]["dpo"]
    raw["policies"] = world.policies(dpo, base, world.SEEDS[name], job.steps)
    raw["generate"] |= {"prompts": {"test": job.prompts}, "seeds": 1, "overrides": world.overrides()}
    raw |= {"rounds": {}, "reward_models": {}, "rewards": {JUDGE: {"world": world.WORLD, "of": list(world.GROUPS)}}}
    raw["evaluate"] |= {"baseline": BASE, "alarms": {**raw["evaluate"]["alarms"], "held_out": []}}
    raw["probe"] |= {"every": 0, "images": 0, "rewards": []}
    raw["gate"]["conditions"] = [{"figure": "training_alarms", "allowed": []}]  # none of them is promoted
    return parse(raw, "the study's params")


def raters() -> Reward:
    """Returns all raters of the world, who answer the comparisons."""
    return rewards.load(JUDGE, {"world": world.WORLD, "of": [*world.KNOWN, *world.NEW]}, "cpu")


def prepare(values: Params, root: Path, folder: Path) -> None:
    """Makes a project folder: params.yaml, links to the project's shards and models, comparisons by strong raters."""
    files.write_text(folder / "params.yaml", yaml_file.dump(values.model_dump(mode="json")))
    for path in dict.fromkeys([INPUTS[1], values.model.path, values.policies[BASE].init]):
        link = folder / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to((root / path).resolve())
    reward, source, out, note = raters(), root / INPUTS[0], folder / INPUTS[0], folder / "asked"
    key = f"{files.sha256_file(source / comparisons.COMPARISONS)} {ANSWERS} {reward.version}"
    if not note.exists() or note.read_text() != key:
        relabel.by_raters(source, out, reward, ANSWERS, values.data.max_image_pixels)
        files.write_text(note, key)


def keys_of(values: Params, root: Path, folder: Path) -> dict[str, str]:
    """Returns of each policy a hash of what its images' scores depend on; that of its init's policy is in it."""
    shared: list[Any] = [(folder / "asked").read_text(), *(code_hash(stage) for stage in STAGES)]
    shared += [files.sha256_file(root / INPUTS[1] / "manifest.json"), files.hash_folder(root / values.model.path)]
    shared.append(values.model_dump(mode="json", include={"model", "pairs", "precompute", "generate", "rewards"}))
    found: dict[str, str] = {}
    for name, policy in values.policies.items():
        init = found.get(Path(policy.init).name, policy.init)
        parts = [policy.model_dump(mode="json"), init, *shared]
        found[name] = files.sha256_bytes(files.canonical_json(parts).encode())
    return found


def scored(values: Params, name: str, key: str) -> tuple[float, dict[str, list[float | None]]]:
    """Trains a policy, makes its images and scores them by group, unless that was done; works in the project folder.

    Returns the CPU seconds that it took, and the scores.
    """
    file = Path("scores") / f"{name}.json"
    steps: dict[str, Callable[[], None]] = {
        "train": lambda: train.run(values, name),
        "generate": lambda: generate.run(values, name),
        "score": lambda: score(values, name, file),
    }
    seconds = sum(once(f"{step}@{name}", key, work) for step, work in steps.items())
    return seconds, records.plain(file, world.GROUPS, AGAIN)


def score(values: Params, name: str, file: Path) -> None:
    """Writes the utilities of a policy's images, by group."""
    reward = rewards.load(JUDGE, values.model_dump()["rewards"][JUDGE], default_device())
    gallery = galleries.read(Path("images") / name)
    found = scoring.score_gallery(gallery, lambda images, texts: rewards.score_images(reward, images, texts), JUDGE)
    files.write_json(file, {group: rounded(found[f"{JUDGE}_{group}"]) for group in world.GROUPS})
