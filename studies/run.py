"""One run of the study: a project folder of its own, the real stages in it, and what is kept of it."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffalign.config.load import parse
from diffalign.config.params import Params
from diffalign.config.rollout import Rolled
from diffalign.core import files, records, yaml_file
from diffalign.core.code import code_hash
from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND, ROOT
from diffalign.data.batches.pairs import held_out_pairs
from diffalign.data.comparisons import table as comparisons
from diffalign.evaluation import policy_rewards, scoring
from diffalign.evaluation.policy_rewards import Reference, Setting
from diffalign.evaluation.statistics import outcomes
from diffalign.generation import gallery as galleries
from diffalign.models import policies
from diffalign.reporting.made_by import git_commit
from diffalign.rewards import reward as rewards
from diffalign.rewards.reward import Reward
from diffalign.runtime.environment import default_device
from stages import generate, train
from studies import chain_kl, courses, relabel
from studies.claims import BASE
from studies.groups import Asked, Run
from studies.rewards_world import REWARD_MODEL
from studies.shapes_world import MAKERS, RUNS

FOLDER = Path("runs/study")
KEPT = Path("studies/results")
"""Results of runs with the usual prompts and steps: committed, so that no other clone has to make them again."""
PROMPTS = 200
"""Prompts of the test split that each run makes an image for."""
INPUTS = ("data/comparisons", "data/shards")
JUDGE = "oracle"
"""The reward that judges, and that answers in the runs on AI feedback."""
DRAWS = 4
"""(t, noise) draws a pair of the implicit reward: fewer than evaluate's, since there are many runs."""
TIE_BELOW = 0.02
"""Difference of the oracle's scores below which its label is a tie."""
FORMAT = 3
"""Of a run's results; raised when what is kept of a run changes."""
AGAIN = f"Remove it: the run is made again by `{COMMAND} study`."
Floats = NDArray[np.float64]
Result = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """One study: the project's params, how many prompts, and steps of all runs if not the policies' own."""

    values: Params
    prompts: int
    steps: int | None
    root: Path

    @cached_property
    def judge(self) -> Reward:
        """Returns the shapes world's oracle."""
        return rewards.load(JUDGE, {}, default_device())

    def score(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> dict[str, Floats]:
        """Scores RGB images, uint8 [H, W, 3], for their prompts with the judge."""
        return rewards.score_images(self.judge, images, prompts)

    @cached_property
    def references(self) -> dict[Reference, Floats]:
        """Returns the reference's errors on the held-out pairs, by init and timesteps: computed once."""
        return {}

    @cached_property
    def inputs(self) -> list[str]:
        """Returns checksums of what all runs share: comparisons, shards, the base model, the code of their stages."""
        paths = [self.root / INPUTS[0] / comparisons.COMPARISONS, self.root / INPUTS[1] / "manifest.json"]
        code = [code_hash(stage) for stage in ("train", "generate", "score", "evaluate")]
        return [*map(files.sha256_file, paths), self.hash_model(self.values.model.path), *code]

    @cached_property
    def models(self) -> dict[str, str]:
        """Returns checksums of model folders, each computed once."""
        return {}

    def hash_model(self, path: str) -> str:
        """Returns a model folder's checksum."""
        if path not in self.models:
            self.models[path] = files.hash_folder(self.root / path)
        return self.models[path]

    def policy(self, name: str) -> dict[str, Any]:
        """Returns a run's policy, as it would stand in params.yaml."""
        dumped = self.values.model_dump(mode="json")["policies"]
        base = dumped[self.values.evaluate.baseline]
        if name == BASE:
            return dict(base)
        run = RUNS[name]
        found = {key: value for key, value in dumped[run.of].items() if key not in run.without}
        found |= {**run.changes, "noise_seed": base["noise_seed"]}
        return found | ({"steps": self.steps} if self.steps else {})

    def params(self, names: Sequence[str]) -> Params:
        """Returns the project's params with some runs, and the base, for policies."""
        raw = self.values.model_dump(mode="json")
        raw["policies"] = {name: self.policy(name) for name in dict.fromkeys([BASE, *names])}
        raw["generate"] |= {"prompts": {"test": self.prompts}, "seeds": 1}
        sampling = {name: dict(RUNS[name].sampling) for name in names if name != BASE and RUNS[name].sampling}
        raw["generate"]["overrides"] = sampling
        raw["rollouts"] = {"rewards_from": REWARD_MODEL}
        raw["evaluate"] |= {"baseline": BASE, "split": "test", "draws": DRAWS}
        raw |= {"rewards": {JUDGE: {}}, "reward_models": {}}
        raw["evaluate"]["alarms"]["held_out"] = [one for one in raw["evaluate"]["alarms"]["held_out"] if one == JUDGE]
        raw["gate"]["conditions"] = [{"figure": "training_alarms", "allowed": []}]  # no run of it is promoted
        for name in names:
            raw["probe"] |= {} if name == BASE else dict(RUNS[name].probe)
        raw["probe"]["on_alarm"] = "warn"  # a run with an alarm is a result
        return parse(raw, "the study's params")

    def settings(self, name: str) -> str:
        """Returns a hash of a run's settings: kept results are of a run whose settings are the same.

        Keys without a value don't count, so that a new one doesn't have all runs made again.
        """
        parts = ("model", "pairs", "precompute", "generate", "probe")
        run = None if name == BASE else RUNS[name]
        learned = self.values.reward_models.get(Path(REWARD_MODEL).name) if run and needs_reward_model(run) else None
        found = {
            "params": self.params([name]).model_dump(mode="json", include=set(parts), exclude_none=True),
            "policy": {key: value for key, value in self.policy(name).items() if value is not None},
            "asked": [asked_of(name), TIE_BELOW],
            "judged": [JUDGE, self.judge.version, self.values.evaluate.pairs, DRAWS],
            "init": self.hash_model(self.policy(name)["init"]),
            "reward": learned.model_dump(mode="json") if learned else None,
            "format": FORMAT,
        }
        return files.sha256_bytes(files.canonical_json(found).encode())

    def key(self, name: str) -> str:
        """Returns a hash of what a run's files in its project folder are of: settings, inputs, the stages' code."""
        needs = name != BASE and needs_reward_model(RUNS[name])
        parts = [self.settings(name), *self.inputs, self.hash_model(REWARD_MODEL) if needs else None]
        return files.sha256_bytes(files.canonical_json(parts).encode())

    def folder(self, asked: Asked) -> Path:
        """Returns the project folder of the runs on some comparisons."""
        return self.root / FOLDER / asked

    def result_file(self, name: str) -> Path:
        """Returns the file of a run's results: a quick look's aren't kept in git."""
        usual = self.prompts == PROMPTS and self.steps is None
        return self.root / (KEPT if usual else FOLDER / "results") / f"{name}.json"

    def results(self) -> dict[str, Result]:
        """Returns the results of these settings that are there, in the order of RUNS, the base first."""
        found = {}
        for name in (BASE, *RUNS):
            path = self.result_file(name)
            with contextlib.suppress(UserError):  # a run that these params don't admit has no results
                if path.exists() and (kept := records.plain(path, ("settings",), AGAIN))["settings"] == self.settings(
                    name
                ):
                    found[name] = kept
        return found


def needs_reward_model(run: Run) -> bool:
    """Tells whether a run learns from the reward model that this project trained."""
    return any(values.get("path") == REWARD_MODEL for values in run.changes.get("reward", {}).values())


def asked_of(name: str) -> Asked:
    """Returns which comparisons a run trains on."""
    return "all" if name == BASE else RUNS[name].asked


def make_project(job: Study, asked: Asked, names: Sequence[str]) -> None:
    """Makes the project folder of runs on some comparisons: params.yaml, links to the project's inputs and models."""
    folder = job.folder(asked)
    written = job.params([name for name in names if name != BASE and asked_of(name) == asked])
    files.write_text(folder / "params.yaml", yaml_file.dump(written.model_dump(mode="json")))
    inits = [policy.init for policy in written.policies.values()]
    needed = [REWARD_MODEL] if any(name != BASE and needs_reward_model(RUNS[name]) for name in names) else []
    linked = [*INPUTS, *dict.fromkeys([written.model.path, *inits]), *needed]
    if asked != "all":
        linked.remove(INPUTS[0])
        rewritten(job, asked, folder / INPUTS[0])
    for path in linked:
        link = folder / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to((job.root / path).resolve())


def rewritten(job: Study, asked: Asked, out: Path) -> None:
    """Writes the train split's comparisons with the judge's answers, or one model's only, unless they are there."""
    source = job.root / INPUTS[0]
    key = (
        files.sha256_file(source / comparisons.COMPARISONS)
        + f" {asked} {job.judge.name} {job.judge.version} {TIE_BELOW}"
    )
    note = out.with_name("rewritten")
    if note.exists() and note.read_text() == key:
        return
    if asked == "oracle":
        relabel.relabel(source, out, job.score, JUDGE, TIE_BELOW, job.values.data.max_image_pixels)
    else:
        relabel.keep_makers(source, out, MAKERS[asked])
    files.write_text(note, key)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Works in a project folder; training's processes import this very code, wherever they are started."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        os.environ.pop("PYTHONPATH")
        os.environ.update({"PYTHONPATH": before} if before else {})


def once(what: str, key: str, work: Callable[[], None]) -> float:
    """Does some work unless it's noted as done for this key; the CPU seconds that it took, its processes' included."""
    note = Path("done") / f"{what}.json"
    found = records.plain(note, ("key", "seconds"), AGAIN) if note.exists() else {}
    if found.get("key") != key:
        note.unlink(missing_ok=True)
        start = cpu_seconds()
        work()
        found = {"key": key, "seconds": round(cpu_seconds() - start, 1)}
        files.write_json(note, found)
    return float(found["seconds"])


def cpu_seconds() -> float:
    """Returns the CPU seconds of this process and of those that it started and that have ended.

    Of a run on one thread they are what it takes on an idle core; a clock on the wall tells how busy the machine was.
    """
    return sum(os.times()[:4])


def sampled(job: Study, name: str) -> bool:
    """Tells whether the images in a run's folder are this study's, not those of one with other prompts."""
    note = job.folder(asked_of(name)) / "done" / f"generate@{name}.json"
    return note.exists() and records.plain(note, ("key",), AGAIN)["key"] == job.key(name)


def make(job: Study, name: str) -> Result:
    """Trains and samples a run in its project folder and judges it; its results, which are kept."""
    key, values = job.key(name), job.params([name])
    with inside(job.folder(asked_of(name))):
        training = once(f"train@{name}", key, lambda: train.run(values, name))
        sampling = once(f"generate@{name}", key, lambda: generate.run(values, name))
        start = cpu_seconds()
        result = {"settings": job.settings(name), "commit": git_commit(), **judged(job, values, name)}
        result |= {"training_seconds": training, "seconds": round(training + sampling + cpu_seconds() - start, 1)}
    files.write_json(job.result_file(name), result)
    return result


def judged(job: Study, values: Params, name: str) -> Result:
    """Returns a run's scores, its implicit reward's outcomes and its training's end; works in its project folder."""
    gallery = galleries.read(Path("images") / name)
    scores = scoring.score_gallery(gallery, job.score, JUDGE)[JUDGE]
    found: Result = {
        "prompts": files.sha256_bytes(files.canonical_json([entry.prompt for entry in gallery.entries]).encode()),
        "indices": [entry.prompt_index for entry in gallery.entries],
        "scores": [None if np.isnan(value) else round(float(value), 5) for value in scores],
    }
    if name == BASE:
        return found
    base = galleries.read(job.folder("all") / "images" / BASE)
    galleries.check_comparable([base, gallery])
    meta = policies.read_policy(Path("models/policies") / name)
    lines = courses.read(Path("curves") / f"{name}.jsonl")
    policy = values.policies[name]
    return {
        **found,
        "moved": round(moved(base, gallery), 5),
        "kl": round(chain_kl.measured(values, name, sorted({entry.prompt for entry in gallery.entries})), 2),
        "implicit": None if isinstance(policy, Rolled) else implicit_outcomes(job, values, name),
        "end": courses.end(lines),
        "course": courses.course(lines, policy.batch_size) if isinstance(policy, Rolled) else {},
        "alarms": meta["alarms"],
        "chosen": meta["chosen"]["step"],
    }


def moved(base: galleries.Gallery, gallery: galleries.Gallery) -> float:
    """Returns the mean absolute difference of pixels from the base's of equal noise, as a share of their range."""
    pairs = zip(base.entries, gallery.entries, strict=True)
    return float(np.mean([np.abs(base.pixels(a).astype(float) - gallery.pixels(b)).mean() / 255 for a, b in pairs]))


def implicit_outcomes(job: Study, values: Params, name: str) -> dict[str, Any]:
    """Returns whether a run's reward ranks held-out pairs as their raters did (1, 0.5, 0), and the prompts' numbers."""
    settings, policy = values.evaluate, values.policies[name]
    assert policy.method != "none"
    table = comparisons.read(Path(INPUTS[0]))
    how = values.pairs
    pairs = held_out_pairs(table, settings.split, how.rule, how.raters, how.axes)[: settings.pairs]
    setting = Setting(
        family=values.model.family,
        model=values.model.path,
        policies=Path("models/policies"),
        shards=Path(INPUTS[1]),
        resolution=values.precompute.resolution,
        pairs=pairs,
        draws=settings.draws,
        seed=settings.seed,
        batch_size=settings.batch_size,
        device=default_device(),
    )
    found = policy_rewards.rewards({name: policy}, setting, job.references)[name]
    numbers = {text: n for n, text in enumerate(dict.fromkeys(pair.prompt for pair in pairs))}
    ranked = outcomes(found[:, 0], found[:, 1]).tolist()
    return {"outcomes": ranked, "prompts": [numbers[pair.prompt] for pair in pairs]}
