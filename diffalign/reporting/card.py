"""Gathers the facts of each policy's model card from what the report shows, and writes the cards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffalign.config.training import Trained
from diffalign.core import files, records
from diffalign.data.hub import origins
from diffalign.evaluation import alarm_words
from diffalign.monitoring import alarms
from diffalign.monitoring.curve import points
from diffalign.reporting import card_text, image_grid
from diffalign.reporting.card_file import FACTS, PICTURE, TEXT, Card, Judge, License, WinRate, fingerprint
from diffalign.reporting.made_by import git_commit
from diffalign.reporting.material import POLICIES, Material
from diffalign.reporting.sections import caveats, image_alarms

SHOWN = 8
"""Prompts in a card's picture, drawn at random."""
ORACLE = "oracle"


def write(report: Material, folder: Path) -> None:
    """Writes the card of each policy that has a folder, with its facts and, of a trained one, a picture."""
    commit = git_commit()
    for name in report.settings.policies:
        if not (POLICIES / name / "policy.json").is_file():  # images that were given, not a policy's
            continue
        picture, captions = drawn(report, name)
        card = facts(report, name, captions, commit)
        records.write(folder / name / FACTS, card)
        if picture is not None:
            files.write_bytes(folder / name / PICTURE, picture)
        place = POLICIES / name
        files.write_text(folder / name / TEXT, card_text.markdown(card, card_text.of_folder(card, place)))


def drawn(report: Material, name: str) -> tuple[bytes | None, tuple[str, ...]]:
    """Returns the baseline's and a policy's images of prompts drawn at random, as PNG, and these prompts."""
    baseline = report.roles.baseline
    if name == baseline:
        return None, ()
    before, after = report.galleries[baseline], report.galleries[name]
    indices = [entry.prompt_index for entry in before.entries]
    groups = image_grid.choose(np.full(len(indices), np.nan), indices, 0, 0, SHOWN, report.settings.seed)
    captions = tuple(before.entries[slot].prompt for group in groups for slot in group.slots)
    return image_grid.picture(groups, before, after, (baseline, name)), captions


def pipeline_of(family: str) -> str:
    """Returns the name of a family's stock pipeline; a family of one's own is asked itself, which loads PyTorch."""
    if family in origins.PIPELINES:
        return origins.PIPELINES[family]
    from diffalign.models import family as families

    return families.find(family).pipeline


def facts(report: Material, name: str, captions: tuple[str, ...], commit: str) -> Card:
    """Returns the facts of a policy's card."""
    parameters, policy = report.settings.parameters, report.settings.policies[name]
    trained = policy if isinstance(policy, Trained) else None
    model = parameters["model"]
    origin, whole = origins.of(policy.init), origins.of(model["path"])
    licence = origin.license or whole.license
    sources = places(parameters["data"])
    rates = win_rates(report, name)
    judging = {rate.judge for rate in rates}
    return Card(
        policy=name,
        weights=fingerprint(POLICIES / name),
        title=report.settings.title,
        pipeline=pipeline_of(model["family"]),
        method=policy.method,
        adapter=trained.adapter if trained else "none",
        base=policy.init,
        base_repo=origin.repo or whole.repo,
        license=None if licence is None else License(id=licence.id, name=licence.name, link=licence.link),
        data=sources,
        data_repos=tuple(repo for source in sources if (repo := origins.of(source).repo)),
        comparisons=report.ingested.comparisons,
        simulated=report.ingested.simulated,
        pairs=report.work[name].pairs if name in report.work else None,
        settings=as_text(trained.model_dump()) if trained else {},
        confidence=report.settings.interval.confidence,
        win_rates=rates,
        judges=tuple(
            Judge(name=judge.name, version=judge.version, trained_on=judge.trained_on)
            for judge in report.results.rewards
            if judge.name in judging
        ),
        alarms=raised(report, name),
        gate=verdict(report, name),
        caveats=tuple(caveats.caveats(report.results.rewards, report.ingested)),
        resolution=report.galleries[name].about["resolution"],
        sampling=as_text(report.galleries[name].made),
        captions=captions,
        commit=commit,
    )


def places(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns where the comparisons come from: the path of `data`, or the folders of its several sources below it."""
    several = data["settings"].get("sources") if data["source"] == "several" else None
    return tuple(str(Path(data["path"]) / one["path"]) for one in (several or {}).values()) or (str(data["path"]),)


def win_rates(report: Material, name: str) -> tuple[WinRate, ...]:
    """Returns a policy's win rates over the baseline, as many as judges could give."""
    return tuple(
        WinRate(
            judge=row.scorer,
            set=row.set,
            baseline=row.baseline,
            rate=row.win_rate,
            low=row.ci_low,
            high=row.ci_high,
            prompts=row.prompts,
            in_family=row.in_family,
            simulated=row.scorer == ORACLE,
        )
        for row in report.results.comparisons
        if row.policy == name and row.baseline == report.roles.baseline and row.win_rate is not None
    )


def raised(report: Material, name: str) -> tuple[str, ...]:
    """Returns the alarms of a policy's training and of its images, in words."""
    lines = report.curves.get(name, [])
    training = [
        f"{alarm.name} (training, from step {alarm.step:,}): {alarm.explanation}"
        for alarm in alarms.listed(points(lines), report.settings.thresholds) or ()
    ]
    images = [
        f"{alarm.name} (images): {alarm_words.text(alarm)}"
        for alarm in image_alarms.raised(report)
        if alarm.policy == name
    ]
    return (*training, *images)


def verdict(report: Material, name: str) -> str | None:
    """Returns the gate's verdict on a policy; None where it has none."""
    ruled = report.gate.policies if report.gate else ()
    return next((one.verdict for one in ruled if one.policy == name), None)


def as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns values as text, without those that are null."""
    return {key: words(value) for key, value in values.items() if value is not None}


def words(value: Any) -> str:
    """Returns a value for reading: a section's keys with their values, numbers with at most six figures."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words(inner)}" for key, inner in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
