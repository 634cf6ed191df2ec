"""One run of the study: the real stages in its project folder, and what is kept of it."""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffalign.config.params import Params
from diffalign.config.rollout import Rolled
from diffalign.core import files, records
from diffalign.core.home import ROOT
from diffalign.data.batches.pairs import held_out_pairs
from diffalign.data.comparisons import table as comparisons
from diffalign.evaluation import policy_rewards, scoring
from diffalign.evaluation.policy_rewards import Setting
from diffalign.evaluation.statistics import outcomes
from diffalign.generation import gallery as galleries
from diffalign.models import policies
from diffalign.reporting.made_by import git_commit
from diffalign.rewards import reward as rewards
from diffalign.runtime.environment import default_device
from stages import generate, label, sample, train
from studies import chain_kl, courses, kept
from studies.claims import BASE
from studies.job import INPUTS, JUDGE, LEARNED, Study, asked_of, maker_of
from studies.kept import AGAIN, Result


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
        rounds = labelled(job, name)
        training = once(f"train@{name}", key, lambda: train.run(values, name))
        sampling = once(f"generate@{name}", key, lambda: generate.run(values, name))
        start = cpu_seconds()
        result = {"settings": job.settings(name), "commit": git_commit(), **judged(job, values, name)}
        result |= {
            "training_seconds": training,
            "seconds": round(rounds + training + sampling + cpu_seconds() - start, 1),
        }
    kept.write(job.kept, name, result)
    return result


def labelled(job: Study, name: str) -> float:
    """Makes a run's round, and before it the policy whose images it has; the CPU seconds of this round alone.

    Works in the project folder; 0 for a run without a round.
    """
    maker, values = maker_of(name), job.params([name])
    if maker is None:
        return 0.0
    labelled(job, maker)
    once(f"train@{maker}", job.key(maker), lambda: train.run(job.params([maker]), maker))

    def work() -> None:
        sample.run(values, name)
        label.run(values, name)

    return once(f"label@{name}", job.key(name), work)


def judged(job: Study, values: Params, name: str) -> Result:
    """Returns a run's scores, its implicit reward's outcomes and its training's end; works in its project folder."""
    gallery = galleries.read(Path("images") / name)
    scores = scoring.score_gallery(gallery, job.score, JUDGE)[JUDGE]
    found: Result = {**prompts_of(gallery), "scores": rounded(scores)}
    if job.proxy is not None:
        proxy = scoring.score_gallery(gallery, partial(rewards.score_images, job.proxy), LEARNED)[LEARNED]
        found["proxy"] = rounded(proxy)
    if name == BASE:
        return found
    base = galleries.read(job.folder("all") / "images" / BASE)
    galleries.check_comparable([base, gallery])
    meta = policies.read_policy(Path("models/policies") / name)
    lines = courses.read(Path("curves") / f"{name}.jsonl")
    policy = values.policies[name]
    own = isinstance(policy, Rolled)
    return {
        **found,
        "moved": round(moved(base, gallery), 5),
        "kl": round(chain_kl.measured(values, name, [*dict.fromkeys(entry.prompt for entry in gallery.entries)]), 2),
        "implicit": implicit_outcomes(job, values, name) if policy.method != "none" and not own else None,
        "end": courses.end(lines),
        "course": courses.course(lines, policy.batch_size) if isinstance(policy, Rolled) else {},
        "alarms": meta.get("alarms"),  # none of a policy without training
        "chosen": meta["chosen"]["step"] if "chosen" in meta else 0,
    }


def prompts_of(gallery: galleries.Gallery) -> Result:
    """Returns a hash of the prompts of a gallery's images, and the prompts' indices, by which images are compared."""
    texts = [entry.prompt for entry in gallery.entries]
    key = files.sha256_bytes(files.canonical_json(texts).encode())
    return {"prompts": key, "indices": [entry.prompt_index for entry in gallery.entries]}


def rounded(scores: NDArray[np.float64]) -> list[float | None]:
    """Returns scores as they are kept: five digits, None for a missing one."""
    return [None if np.isnan(value) else round(float(value), 5) for value in scores]


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
