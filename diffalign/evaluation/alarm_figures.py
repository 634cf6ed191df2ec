"""Holds every policy's images against the baseline's: what evaluate measures of images, and the alarms that come of it.

Legend: K prompts, S images a prompt, D features.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffalign.core.progress import Progress
from diffalign.data import images
from diffalign.data.comparisons import table as comparisons
from diffalign.evaluation import alarms, looks
from diffalign.evaluation.bootstrap import Floats
from diffalign.evaluation.looks import Features, Looks, Pixels
from diffalign.evaluation.results import Alarm, Comparison
from diffalign.evaluation.scores import Scored, as_column
from diffalign.evaluation.win_rates import Judged
from diffalign.generation.gallery import Gallery

if TYPE_CHECKING:
    from diffalign.config.alarms import Alarms

MOST = 1000
"""Prompts whose images are compared with each other, at most; the rest is left out evenly."""
LOOKS = ("saturation", "contrast", "sharpness")
"""Fields of `Looks` that may drift."""
NO_READER = "no judge by which the baseline's images surely suit their own prompts better than others'"


@dataclass(frozen=True)
class Seen:
    """What was measured of images."""

    policies: Mapping[str, Looks]
    training: Floats
    """Features of training images, and of held-out ones."""
    held_out: Floats
    features: str
    """The features' name."""

    def of(self, *names: str) -> list[Floats]:
        """Returns the features of policies' images."""
        return [self.policies[name].features for name in names]


def see(
    settings: "Alarms", galleries: Mapping[str, Gallery], folder: Path, split: str, resolution: int, max_pixels: int
) -> Seen:
    """Measures every policy's images, and images of the comparisons in `folder`: training's and a held-out split's."""
    features, most = looks.FEATURES[settings.features], settings.training_images if settings.copies is not None else 0
    training, held_out = (
        of_comparisons(folder, one, most, features, resolution, max_pixels) for one in ("train", split)
    )
    return Seen(measure(galleries, features), training, held_out, settings.features)


def measure(galleries: Mapping[str, Gallery], features: Features) -> dict[str, Looks]:
    """Measures every policy's images, with progress on stderr."""
    progress = Progress("alarms: images", sum(len(gallery.entries) for gallery in galleries.values()))

    def shown(gallery: Gallery) -> Iterator[Pixels]:
        for entry in gallery.entries:
            yield gallery.pixels(entry)
            progress.update()

    return {name: looks.measure(shown(gallery), features) for name, gallery in galleries.items()}


def of_comparisons(folder: Path, split: str, most: int, features: Features, resolution: int, max_pixels: int) -> Floats:
    """Returns the features [N, D] of a split's images, the first `most` by hash, cropped and sized as for training."""
    rows = comparisons.read(folder).select(["split", "image_a", "image_b"]).to_pylist()
    names = sorted({row[side] for row in rows if row["split"] == split for side in ("image_a", "image_b")})[:most]
    progress = Progress(f"alarms: {split} images", len(names))

    def decoded() -> Iterator[Pixels]:
        for _, data in comparisons.iter_images(folder, names):
            values = images.preprocess(images.decode(data, max_pixels), resolution)
            yield np.rint((values.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
            progress.update()

    return looks.features_of(decoded(), features)


def say(found: Sequence[Alarm]) -> None:
    """Says on stderr which alarms are raised."""
    for alarm in found:
        if alarm.verdict == "raised":
            sys.stderr.write(
                f"evaluate: alarm {alarm.name} of {alarm.policy}: {alarm.figure:.3g}, threshold {alarm.threshold:g}, "
                f"by {alarm.by}\n"
            )


def listed(
    settings: "Alarms",
    baseline: str,
    judged: Judged,
    compared: Sequence[Comparison],
    scored: Mapping[str, Scored],
    seen: Seen,
) -> list[Alarm]:
    """Returns the alarms of every policy but the baseline, those that are on, in the order of `evaluate.alarms`."""
    found: list[Alarm] = []
    for policy in judged.galleries:
        if policy != baseline:
            rows = [row for row in compared if row.policy == policy]
            if judged.policies[policy].families:
                found += hacking(settings, policy, rows)
            found += of_features(settings, policy, baseline, judged, seen)
            found += alignment(settings, policy, baseline, judged, scored)
            found += of_looks(settings, policy, baseline, judged, seen)
            found += copied(settings, policy, judged, seen)
    return found


def hacking(settings: "Alarms", policy: str, rows: Sequence[Comparison]) -> list[Alarm]:
    """Returns the alarm of each in-family judge with each held-out one; a missing one where there's no such pair."""
    if settings.hacking is None:
        return []
    proxies = [row for row in rows if row.in_family and row.scorer not in settings.held_out]
    others = [row for row in rows if row.scorer in settings.held_out]
    pairs = [(proxy, other) for proxy in proxies for other in others if proxy.set == other.set]
    if not pairs:
        lacking = "no in-family judge beside the held-out ones" if others else "no judge in evaluate.alarms.held_out"
        return [alarms.ruled("hacking", policy, lacking, None, settings.hacking)]
    found = []
    for proxy, other in pairs:
        rates = [(row.win_rate, row.ci_low, row.ci_high) for row in (proxy, other)]
        by, bounds = f"{proxy.scorer}, held against {other.scorer}, on {proxy.set}", alarms.hacking(*rates)
        if bounds is None and not any(row.win_rate is None for row in (proxy, other)):
            found.append(quiet("hacking", policy, f"{by}; {proxy.scorer} didn't surely rise", settings.hacking))
        else:
            found.append(alarms.ruled("hacking", policy, by, bounds, settings.hacking))
    return found


def quiet(name: str, policy: str, by: str, threshold: float) -> Alarm:
    """Returns an alarm that has no figure since there's nothing to alarm about."""
    return alarms.ruled(name, policy, by, None, threshold).model_copy(update={"verdict": "quiet"})


def of_features(settings: "Alarms", policy: str, baseline: str, judged: Judged, seen: Seen) -> list[Alarm]:
    """Returns the alarms of diversity: over prompts, and over the images of a prompt where it has several."""
    seeds, found = len({entry.seed for entry in judged.galleries[policy].entries}), []
    own, base = (features.reshape(-1, seeds, features.shape[1]) for features in seen.of(policy, baseline))
    kept = np.unique(np.linspace(0, len(own) - 1, min(len(own), MOST)).round().astype(int))
    views = {"over prompts": 1, "over images of a prompt": seeds} if seeds > 1 else {"over prompts": 1}
    for view, count in views.items():
        by, sides = f"{seen.features}, {view}", (own[kept, :count], base[kept, :count])
        if settings.diversity is not None:
            bounds = alarms.diversity(*sides, judged.interval)
            found.append(alarms.ruled("diversity", policy, by, bounds, settings.diversity))
        if settings.vendi is not None:
            value = alarms.vendi(*sides)
            bounds = None if value is None else (value, None, None)
            found.append(alarms.ruled("vendi", policy, by, bounds, settings.vendi))
    return found


def alignment(
    settings: "Alarms", policy: str, baseline: str, judged: Judged, scored: Mapping[str, Scored]
) -> list[Alarm]:
    """Returns the alarm of each judge that reads prompts: the baseline's images surely lose by another one's.

    Judges that don't read them, or for which the baseline doesn't follow them, have no figure and aren't listed; one
    missing alarm is where no judge has one.
    """
    if settings.alignment is None:
        return []
    found = []
    for judge, one in scored.items():
        gaps = {
            name: as_column(line.own for line in lines) - as_column(line.other for line in lines)
            for name in (policy, baseline)
            if (lines := [line for line in one.shuffled if line.policy == name])
        }
        prompts = [line.prompt_index for line in one.shuffled if line.policy == policy]
        bounds = alarms.alignment(gaps[policy], gaps[baseline], prompts, judged.interval) if len(gaps) == 2 else None
        if bounds is not None:
            found.append(alarms.ruled("alignment", policy, judge, bounds, settings.alignment))
    return found or [alarms.ruled("alignment", policy, NO_READER, None, settings.alignment)]


def of_looks(settings: "Alarms", policy: str, baseline: str, judged: Judged, seen: Seen) -> list[Alarm]:
    """Returns the alarms of how images look."""
    prompts, found = [entry.prompt_index for entry in judged.galleries[policy].entries], []
    for name in LOOKS:
        threshold: float | None = getattr(settings, name)
        if threshold is not None:
            own, base = (getattr(seen.policies[one], name) for one in (policy, baseline))
            bounds = alarms.drift(own, base, prompts, judged.interval)
            found.append(alarms.ruled(name, policy, "pixels", bounds, threshold))
    if settings.tint is not None:
        moved = alarms.tint(seen.policies[policy].tint, seen.policies[baseline].tint, prompts, judged.interval)
        found.append(alarms.ruled("tint", policy, "pixels", moved, settings.tint))
    return found


def copied(settings: "Alarms", policy: str, judged: Judged, seen: Seen) -> list[Alarm]:
    """Returns the alarm of images that lie too near to a training image."""
    if settings.copies is None:
        return []
    prompts = [entry.prompt_index for entry in judged.galleries[policy].entries]
    by = f"{seen.features}, {len(seen.training):,} training images, {len(seen.held_out):,} held out"
    bounds = alarms.copies(seen.policies[policy].features, seen.training, seen.held_out, prompts, judged.interval)
    return [alarms.ruled("copies", policy, by, bounds, settings.copies)]
