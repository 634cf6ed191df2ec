"""report: metrics, curves and images into one HTML file that needs nothing else, and a before/after picture."""

import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from diffalign.core import files
from diffalign.core.errors import UserError
from diffalign.core.publishing import replacing
from diffalign.evaluation import results as evaluations
from diffalign.evaluation import scores as score_files
from diffalign.evaluation.scores import Floats
from diffalign.evaluation.statistics import Interval
from diffalign.evaluation.win_rates import compare
from diffalign.generation import gallery as galleries
from diffalign.generation.gallery import Gallery
from diffalign.monitoring.curve import points
from diffalign.reporting import image_grid
from diffalign.reporting import results as pages
from diffalign.reporting import study as study_page
from diffalign.reporting import training as training_pages
from diffalign.reporting.charts import interval_axis

if TYPE_CHECKING:
    from diffalign.config.params import Params

METRICS, CURVES, IMAGES, OUT = Path("metrics"), Path("curves"), Path("images"), Path("reports")
POLICIES = Path("models/policies")
STUDY = METRICS / "study.json"  # where `python pipeline.py study` has run
PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "dvc", "mlflow", "prefect")
CAPTION = 400  # characters of a caption that are shown
SHOTS = 4  # policies side by side, at most
Scores = dict[str, dict[str, Floats]]  # by policy and name, in the order of its gallery


def run(params: "Params", policy: str | None = None) -> None:
    """Writes `reports/report.html` and `reports/grid.png`. UserError where an input is missing or has changed."""
    results, ingested = evaluations.read(), read_json(METRICS / "ingest.json")
    shown = {name: galleries.read(IMAGES / name) for name in params.policies}
    galleries.check_comparable(shown.values())
    for name, gallery in shown.items():
        galleries.check_made(gallery, params.sampling(name))
    scores = read_scores(list(params.rewards), shown)
    who = pages.roles(params.model_dump()["policies"], params.evaluate.baseline)
    groups = chosen(params, who, shown, scores)
    compared = [*results.comparisons, *trained_contests(params, who, shown, scores)]
    contests = [row.model_dump() for row in compared]
    wins = pages.win_rows(contests, who, {name: len(gallery.entries) for name, gallery in shown.items()})
    implicit = pages.implicit_rows([row.model_dump() for row in results.implicit_reward], who)
    judges = results.rewards
    confidence = params.evaluate.confidence
    trainings = curves(params, who)
    html = pages.render(
        {
            "title": params.report.title,
            "headline": pages.headline(wins, who, confidence, params.generate.split),
            "facts": pages.facts(wins, implicit, who),
            "warnings": [
                *pages.warnings(wins, who, {name: gallery.about for name, gallery in shown.items()}),
                *training_pages.warnings(trainings),
            ],
            "grid": grid(groups, who, shown, scores, next(iter(params.rewards), None)),
            "wins": wins,
            "controls": who.controls,
            "confidence": f"{confidence:.0%}",
            "bootstrap": f"{params.evaluate.bootstrap:,}",
            "axis": interval_axis(),
            "means": pages.mean_scores(scores),
            "implicit": implicit,
            "draws": params.evaluate.draws,
            "ceiling": implicit[0]["ceiling"] if implicit else None,
            "curves": trainings,
            "study": study_page.section(read_json(STUDY)) if STUDY.exists() else None,
            "data": pages.tables(ingested),
            "caveats": pages.caveats(judges, ingested["simulated"]),
            "judges": judges,
            "versions": [
                ("Python", platform.python_version()),
                *pages.versions(PACKAGES),
                ("git commit", git_commit()),
            ],
            "parameters": yaml.safe_dump(params.model_dump(), sort_keys=False, allow_unicode=True),
        }
    )
    with replacing(OUT) as folder:
        if who.hero is not None:
            names = (who.baseline, who.hero)
            files.write_bytes(folder / "grid.png", image_grid.picture(groups, shown[names[0]], shown[names[1]], names))
        files.write_text(folder / "report.html", html)


def read_json(path: Path) -> dict[str, Any]:
    """A stage's metrics; UserError if they aren't there."""
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}). Make it: dvc repro") from None
    return value


def read_scores(rewards: list[str], shown: Mapping[str, Gallery]) -> Scores:
    """Returns each gallery's scores by all rewards."""
    found: Scores = {name: {} for name in shown}
    for reward in rewards:
        for name, columns in score_files.read_images(reward, shown).items():
            found[name].update(columns)
    return found


def trained_contests(
    params: "Params", who: pages.Roles, shown: Mapping[str, Gallery], scores: Scores
) -> list[evaluations.Comparison]:
    """The hero against the other trained policies, by each judge; evaluate.json has all against the baseline."""
    settings, hero = params.evaluate, who.hero
    how = Interval(settings.bootstrap, settings.confidence, settings.seed)
    return [
        compare(hero, name, scorer, shown[hero].entries, scores[hero][scorer], scores[name][scorer], how)
        for name in who.trained
        if hero in who.trained and name not in (hero, who.baseline)
        for scorer in params.rewards
    ]


def chosen(params: "Params", who: pages.Roles, shown: Mapping[str, Gallery], scores: Scores) -> list[image_grid.Group]:
    """The prompts of the grid, by the hero's gain over the baseline in the first judge's score."""
    entries, settings = shown[who.baseline].entries, params.report
    gains: NDArray[np.float64] = np.full(len(entries), np.nan)
    if who.hero and params.rewards:
        judge = next(iter(params.rewards))
        gains = scores[who.hero][judge] - scores[who.baseline][judge]
    prompts = [entry.prompt_index for entry in entries]
    return image_grid.choose(gains, prompts, settings.best, settings.worst, settings.random, settings.seed)


def grid(
    groups: list[image_grid.Group], who: pages.Roles, shown: Mapping[str, Gallery], scores: Scores, scorer: str | None
) -> dict[str, Any]:
    """The cards of the grid: for each prompt the baseline, the hero, and other trained policies of the same noise."""
    noise = {name: gallery.about["noise_seed"] for name, gallery in shown.items()}
    same = [name for name in who.trained if noise[name] == noise[who.baseline]]
    names = list(dict.fromkeys([who.baseline, *([who.hero] if who.hero else []), *same]))[:SHOTS]

    def shot(name: str, slot: int) -> dict[str, Any]:
        entry, gallery = shown[name].entries[slot], shown[name]
        height, width = gallery.pixels(entry).shape[:2]
        value = scores[name][scorer][slot] if scorer else np.nan
        uri = image_grid.data_uri(gallery.data(entry))
        text = "" if np.isnan(value) else f"{value:.2f}"
        return {"name": name, "uri": uri, "width": width, "height": height, "score": text, "alt": f"{name}'s image"}

    cards = [
        {
            "title": group.title,
            "note": group.note,
            "cards": [
                {"caption": cut(shown[who.baseline].entries[i].prompt), "shots": [shot(name, i) for name in names]}
                for i in group.slots
            ],
        }
        for group in groups
    ]
    note = f"Same prompt, same initial noise: {', '.join(names)}." if len(names) > 1 else f"Images of {names[0]}."
    if len({noise[name] for name in names}) > 1:
        note = f"Same prompt, different noise: {', '.join(names)}."
    note += f" Beside the names: the {scorer} score." if scorer else ""
    return {"groups": cards, "note": note, "card": 2 + 5.8 * len(names)}


def cut(text: str) -> str:
    """A caption as far as it's shown."""
    return text if len(text) <= CAPTION else text[:CAPTION] + "…"


def curves(params: "Params", who: pages.Roles) -> list[dict[str, Any]]:
    """The training panels of each trained policy."""
    found = []
    for name in who.trained:
        path = CURVES / f"{name}.jsonl"
        try:
            lines = [json.loads(line) for line in path.read_text().splitlines()]
        except (OSError, ValueError) as error:
            raise UserError(f"{path} can't be read ({error}). Run `dvc repro`.") from None
        policy, limits, seen = params.policies[name].model_dump(), params.probe.model_dump(), points(lines)
        found.append(
            {
                "policy": name,
                "about": pages.about_training(policy),
                "panels": pages.curve_panels(lines) + training_pages.gradient_panel(lines),
                "probes": training_pages.probe_panels(seen),
                "alarms": training_pages.raised(seen, limits),
                "chosen": training_pages.chosen(policy["choose"], seen, limits),
                "pictures": training_pages.pictures(POLICIES / name / "probe"),
            }
        )
    return found


def git_commit() -> str:
    """The commit that is checked out, and whether files differ from it; `none` outside of a repository."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        return commit + (" with changes" if _git("status", "--porcelain", "--untracked-files=no").strip() else "")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "none"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout
