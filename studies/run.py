"""One run of the study: a project folder of its own, the real stages in it, and what is kept of it."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffalign.config.load import parse
from diffalign.config.params import Params
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
from diffalign.monitoring import curve
from diffalign.rewards import reward as rewards
from diffalign.rewards.reward import Reward
from diffalign.runtime.environment import default_device
from stages import generate, train
from studies import relabel
from studies.claims import BASE
from studies.groups import Asked, Run
from studies.rewards_world import REWARD_MODEL
from studies.shapes_world import MAKERS, RUNS

FOLDER = Path("runs/study")
INPUTS = ("data/comparisons", "data/shards")
JUDGE = "oracle"
"""The reward that judges, and that answers in the runs on AI feedback."""
DRAWS = 4
"""(t, noise) draws a pair of the implicit reward: fewer than evaluate's, since there are many runs."""
TIE_BELOW = 0.02
"""Difference of the oracle's scores below which its label is a tie."""
END = 0.1
"""Share of a curve's points, its last, that its end values are means of."""
FORMAT = 2
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
        raw["probe"]["on_alarm"] = "warn"  # a run with an alarm is a result
        return parse(raw, "the study's params")

    def key(self, name: str) -> str:
        """Returns a hash of what a run's results depend on: params, inputs, the code of the stages that make them."""
        raw = self.params([name]).model_dump(mode="json", exclude={"data", "policies", "report", "runtime"})
        parts = {
            "params": raw,
            "policy": self.policy(name),
            "asked": [asked_of(name), TIE_BELOW],
            "inputs": self.inputs,
            "init": self.hash_model(self.policy(name)["init"]),
            "reward": self.hash_model(REWARD_MODEL) if name != BASE and needs_reward_model(RUNS[name]) else None,
        }
        return files.sha256_bytes(files.canonical_json(parts).encode())

    def folder(self, asked: Asked) -> Path:
        """Returns the project folder of the runs on some comparisons."""
        return self.root / FOLDER / asked

    def result_file(self, name: str) -> Path:
        """Returns the file of a run's results."""
        return self.root / FOLDER / "results" / f"{name}-{self.key(name)[:16]}-{FORMAT}.json"

    def results(self) -> dict[str, Result]:
        """Returns the results that are there, in the order of RUNS, the base first."""
        paths = {}
        for name in (BASE, *RUNS):
            with contextlib.suppress(UserError):  # a run that these params don't admit has no results
                paths[name] = self.result_file(name)
        return {name: records.plain(path, (), AGAIN) for name, path in paths.items() if path.exists()}


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
    """Does some work unless it's noted as done for this key; the seconds that it took."""
    note = Path("done") / f"{what}.json"
    found = records.plain(note, ("key", "seconds"), AGAIN) if note.exists() else {}
    if found.get("key") != key:
        note.unlink(missing_ok=True)
        start = time.monotonic()
        work()
        found = {"key": key, "seconds": round(time.monotonic() - start, 1)}
        files.write_json(note, found)
    return float(found["seconds"])


def sampled(job: Study, name: str) -> bool:
    """Tells whether the images in a run's folder are this study's, not those of one with other prompts."""
    note = job.folder(asked_of(name)) / "done" / f"generate@{name}.json"
    return note.exists() and records.plain(note, ("key",), AGAIN)["key"] == job.key(name)


def make(job: Study, name: str) -> Result:
    """Trains and samples a run in its project folder and judges it; its results, which are kept."""
    key, values = job.key(name), job.params([name])
    with inside(job.folder(asked_of(name))):
        seconds = once(f"train@{name}", key, lambda: train.run(values, name))
        seconds += once(f"generate@{name}", key, lambda: generate.run(values, name))
        start = time.monotonic()
        result = judged(job, values, name)
        result["seconds"] = round(seconds + time.monotonic() - start, 1)
    files.write_json(job.result_file(name), result)
    return result


def judged(job: Study, values: Params, name: str) -> Result:
    """Returns a run's scores, its implicit reward's outcomes and its training's end; works in its project folder."""
    gallery = galleries.read(Path("images") / name)
    scores = scoring.score_gallery(gallery, job.score, JUDGE)[JUDGE]
    found: Result = {
        "prompts": [entry.prompt for entry in gallery.entries],
        "indices": [entry.prompt_index for entry in gallery.entries],
        "scores": [None if np.isnan(value) else float(value) for value in scores],
    }
    if name == BASE:
        return found
    base = galleries.read(job.folder("all") / "images" / BASE)
    galleries.check_comparable([base, gallery])
    meta = policies.read_policy(Path("models/policies") / name)
    return {
        **found,
        "moved": moved(base, gallery),
        "implicit": implicit_outcomes(job, values, name),
        "curve": curve_end(Path("curves") / f"{name}.jsonl"),
        "alarms": meta["alarms"],
        "chosen": meta["chosen"]["step"],
    }


def moved(base: galleries.Gallery, gallery: galleries.Gallery) -> float:
    """Returns the mean absolute difference of pixels from the base's of equal noise, as a share of their range."""
    pairs = zip(base.entries, gallery.entries, strict=True)
    return float(np.mean([np.abs(base.pixels(a).astype(float) - gallery.pixels(b)).mean() / 255 for a, b in pairs]))


def curve_end(path: Path) -> dict[str, float]:
    """Returns the means of a training curve's last points."""
    lines = curve.read(path, path.stem)
    found = {}
    for name in ("loss", "implicit_accuracy", "winner_change", "loser_change"):
        points = [line[name] for line in lines if name in line]
        if points:
            found[name] = float(np.mean(points[-max(round(len(points) * END), 1) :]))
    return found | rewards_of(lines)


def rewards_of(lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean rewards of own pictures at a curve's first points and at its last; empty without."""
    found: dict[str, float] = {}
    for name in sorted({name for line in lines for name in line if name.startswith("reward_")} - {"reward_std"}):
        points = [line[name] for line in lines if name in line]
        count = max(round(len(points) * END), 1)
        found |= {f"{name}_first": float(np.mean(points[:count])), name: float(np.mean(points[-count:]))}
    return found


def implicit_outcomes(job: Study, values: Params, name: str) -> dict[str, Any]:
    """Returns whether a run's reward ranks each held-out pair as its rater did (1, 0.5, 0), and the pairs' prompts."""
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
    return {"outcomes": outcomes(found[:, 0], found[:, 1]).tolist(), "prompts": [pair.prompt for pair in pairs]}
