"""A study: its params, what its runs' results depend on, and the project folders that they are made in."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffalign.config.load import parse
from diffalign.config.params import Params
from diffalign.config.rounds import FOLDER as ROUNDS
from diffalign.config.rounds import made_by
from diffalign.core import files, yaml_file
from diffalign.core.code import code_hash
from diffalign.data.comparisons import table as comparisons
from diffalign.evaluation.policy_rewards import Reference
from diffalign.rewards import reward as rewards
from diffalign.rewards.reward import Reward
from diffalign.runtime.environment import default_device
from studies import kept, relabel
from studies.claims import BASE
from studies.groups import Asked, Run
from studies.kept import Result
from studies.rewards_world import REWARD_MODEL
from studies.shapes_world import MAKERS, RUNS

FOLDER = Path("runs/study")
PROMPTS = 200
"""Prompts of the test split that each run makes an image for."""
INPUTS = ("data/comparisons", "data/shards")
JUDGE = "oracle"
"""The reward that judges, and that answers in the runs on AI feedback."""
LEARNED, PROXY_BATCH = "learned", 64
"""The reward whose model REWARD_MODEL is, and the images in a forward of it."""
BY_REWARD = {"best_of", "optimise"}
"""Rules of sampling by which a reward decides."""
DRAWS = 4
"""(t, noise) draws a pair of the implicit reward: fewer than evaluate's, since there are many runs."""
TIE_BELOW = 0.02
"""Difference of the oracle's scores below which its label is a tie."""
FORMAT = 3
"""Of a run's results; raised when what is kept of a run changes."""
Floats = NDArray[np.float64]


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
    def proxy(self) -> Reward | None:
        """Returns the reward model that this project trained, by which all images are scored; None where it isn't."""
        if not (self.root / REWARD_MODEL / "config.json").is_file():
            return None
        settings = {"path": str(self.root / REWARD_MODEL), "batch_size": PROXY_BATCH}
        return rewards.load(LEARNED, settings, default_device())

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
        dumped[BASE] = base
        found = {key: value for key, value in dumped[run.of].items() if key not in run.without}
        found |= {**run.changes, "noise_seed": base["noise_seed"]}
        found |= {"init": f"{ROUNDS}/{name}"} if run.round else {}
        return found | ({"steps": self.steps} if self.steps and run.of != BASE else {})

    def params(self, names: Sequence[str]) -> Params:
        """Returns the project's params with some runs, those that their rounds are of, and the base, for policies."""
        raw = self.values.model_dump(mode="json")
        every = dict.fromkeys([BASE, *(one for name in names for one in chain_of(name))])
        raw["policies"] = {name: self.policy(name) for name in every}
        raw["rounds"] = {name: dict(found) for name in every if name != BASE and (found := RUNS[name].round)}
        raw["generate"] |= {"prompts": {"test": self.prompts}, "seeds": 1}
        sampling = {name: dict(RUNS[name].sampling) for name in every if name != BASE and RUNS[name].sampling}
        raw["generate"]["overrides"] = sampling
        raw["rollouts"] = {"rewards_from": REWARD_MODEL}
        raw["evaluate"] |= {"baseline": BASE, "split": "test", "draws": DRAWS}
        raw |= {"rewards": {JUDGE: {}}, "reward_models": {}}
        if any(name != BASE and RUNS[name].sampling.keys() & BY_REWARD for name in names):
            raw["rewards"][LEARNED] = {"path": REWARD_MODEL, "batch_size": PROXY_BATCH}
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
            "init": self.settings(maker) if (maker := maker_of(name)) else self.hash_model(self.policy(name)["init"]),
            "reward": learned.model_dump(mode="json") if learned else None,
            "format": FORMAT,
        } | ({"round": {key: value for key, value in run.round.items() if value}} if run and run.round else {})
        return files.sha256_bytes(files.canonical_json(found).encode())

    def key(self, name: str) -> str:
        """Returns a hash of what a run's files in its project folder are of: settings, inputs, the stages' code."""
        needs = name != BASE and needs_reward_model(RUNS[name])
        parts = [self.settings(name), *self.inputs, self.hash_model(REWARD_MODEL) if needs else None]
        parts += [code_hash("sample"), code_hash("label")] if maker_of(name) else []
        return files.sha256_bytes(files.canonical_json(parts).encode())

    def folder(self, asked: Asked) -> Path:
        """Returns the project folder of the runs on some comparisons."""
        return self.root / FOLDER / asked

    @property
    def kept(self) -> Path:
        """Returns the folder of the results: a quick look's aren't committed."""
        usual = self.prompts == PROMPTS and self.steps is None
        return self.root / (kept.FOLDER if usual else FOLDER / "results")

    def results(self) -> dict[str, Result]:
        """Returns the results of these settings that are there, in the order of RUNS, the base first."""
        found = kept.read(self.kept, (BASE, *RUNS))
        return {name: one for name, one in found.items() if kept.current(one, partial(self.settings, name))}


def needs_reward_model(run: Run) -> bool:
    """Tells whether a run follows the reward model that this project trained, in training or in sampling."""
    followed = any(values.get("path") == REWARD_MODEL for values in run.changes.get("reward", {}).values())
    return followed or bool(run.sampling.keys() & BY_REWARD)


def maker_of(name: str) -> str | None:
    """Returns the run, or the base, whose images the round of a run is of; None for a run without a round."""
    found = None if name == BASE else RUNS[name].round
    return found["policy"] if found else None


def chain_of(name: str) -> list[str]:
    """Returns the runs that a run comes after by rounds, the first one first, and the run itself."""
    maker = maker_of(name)
    return [*(chain_of(maker) if maker else ()), name]


def asked_of(name: str) -> Asked:
    """Returns which comparisons a run trains on."""
    return "all" if name == BASE else RUNS[name].asked


def make_project(job: Study, asked: Asked, names: Sequence[str]) -> None:
    """Makes the project folder of runs on some comparisons: params.yaml, links to the project's inputs and models."""
    folder = job.folder(asked)
    written = job.params([name for name in names if name != BASE and asked_of(name) == asked])
    files.write_text(folder / "params.yaml", yaml_file.dump(written.model_dump(mode="json")))
    every = [held for policy in written.policies.values() for held in (policy.init, getattr(policy, "held_to", None))]
    inits = [path for path in every if path and made_by(path) not in written.policies]
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
