"""evaluate: which policy's images judges prefer, and how well the policies' own rewards agree with the raters."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffalign.core import files
from diffalign.core.progress import Progress
from diffalign.data import images
from diffalign.data.batches.pairs import Pair, make_pairs
from diffalign.data.comparisons import table as comparisons
from diffalign.data.shards import reader as shards
from diffalign.diffusion.timesteps import Density, Times
from diffalign.evaluation import implicit_reward as implicit
from diffalign.evaluation import statistics
from diffalign.evaluation.win_rates import contest
from diffalign.generation import gallery as galleries
from diffalign.generation.gallery import Gallery
from diffalign.models import family as families
from diffalign.models import policies
from diffalign.rewards import reward as scorers
from diffalign.rewards.reward import Scorer
from diffalign.runtime.environment import default_device

if TYPE_CHECKING:
    from diffalign.config.params import Params
    from diffalign.config.training import Trained

COMPARISONS, SHARDS, POLICIES, IMAGES = (
    Path("data/comparisons"),
    Path("data/shards"),
    Path("models/policies"),
    Path("images"),
)
METRICS = Path("metrics")
CHUNK = 64  # images decoded at a time
Floats = NDArray[np.float64]
Scores = dict[str, Floats]  # by score name, [images of a gallery]


def run(params: "Params", policy: str | None = None) -> None:
    """Writes `metrics/evaluate.json` and `metrics/scores.jsonl`.

    Raises UserError where images changed since they were generated, or policies have images for different prompts.
    """
    settings = params.evaluate
    how = {"resamples": settings.bootstrap, "confidence": settings.confidence, "seed": settings.seed}
    shown = {name: galleries.read(IMAGES / name) for name in params.policies}
    galleries.check_comparable(shown.values())
    judges = [scorers.load(name) for name in settings.scorers]
    scores = {name: score_gallery(gallery, judges) for name, gallery in shown.items()}
    base = settings.baseline
    results: dict[str, Any] = {
        "schema": 1,
        "comparisons": [
            contest(
                name, base, judge.name, shown[name].entries, scores[name][judge.name], scores[base][judge.name], how
            )
            for name in params.policies
            if name != base
            for judge in judges
        ],
        "implicit_reward": implicit_reward(params, judges, how),
    }
    for row in results["comparisons"]:
        say_missing(row, len(shown[row["policy"]].entries))
    lines = [line for name in shown for line in score_lines(shown[name], scores[name])]
    files.write_text(METRICS / "scores.jsonl", "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines))
    files.write_json(METRICS / "evaluate.json", results)


def trained(params: "Params") -> dict[str, "Trained"]:
    """The policies that trained, in the order of params.yaml."""
    return {name: policy for name, policy in params.policies.items() if policy.method != "none"}


def score_gallery(gallery: Gallery, judges: Sequence[Scorer]) -> Scores:
    """All judges' scores of a policy's images, NaN where a judge can't score; each image's checksum is checked."""
    parts: list[Scores] = []
    progress = Progress(f"score {gallery.about['policy']}", len(gallery.entries))
    for start in range(0, len(gallery.entries), CHUNK):
        chunk = gallery.entries[start : start + CHUNK]
        pixels, prompts = [gallery.pixels(entry) for entry in chunk], [entry.prompt for entry in chunk]
        parts.append({name: values for judge in judges for name, values in judge(pixels, prompts).items()})
        progress.update(len(chunk))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def say_missing(row: Mapping[str, Any], asked: int) -> None:
    """Says on stderr how many images of a comparison a judge couldn't score."""
    judged = row["wins"] + row["ties"] + row["losses"]
    if judged < asked:
        sys.stderr.write(
            f"evaluate: {row['scorer']} can't judge {asked - judged} of {asked} images of {row['policy']} against "
            f"{row['baseline']}: left out\n"
        )


def score_lines(gallery: Gallery, scores: Scores) -> Iterator[dict[str, Any]]:
    """The lines of metrics/scores.jsonl, one an image; a missing score is None."""
    for i, entry in enumerate(gallery.entries):
        values = {name: None if np.isnan(column[i]) else float(column[i]) for name, column in scores.items()}
        yield {
            "policy": gallery.about["policy"],
            "file": entry.file,
            "sha256": entry.sha256,
            "prompt": entry.prompt,
            "prompt_index": entry.prompt_index,
            "seed": entry.seed,
            "scores": values,
        }


def implicit_reward(params: "Params", judges: Sequence[Scorer], how: dict[str, Any]) -> list[dict[str, Any]]:
    """How often each trained policy's reward ranks a held-out pair as its rater did, beside the oracle's ceiling."""
    names, pairs = list(trained(params)), held_out_pairs(params)
    if names and not pairs:
        sys.stderr.write(
            f"evaluate: the {params.evaluate.split} split has no untied comparison: no implicit-reward accuracy\n"
        )
    prompts = [pair.prompt for pair in pairs]
    rewards = policy_rewards(params, names, pairs) if pairs else {}
    top = ceiling(pairs, judges, params.data.max_image_pixels)
    lines = []
    for name in names:
        reward = rewards.get(name, np.empty((0, 2)))
        results = statistics.outcomes(reward[:, 0], reward[:, 1])
        rate = statistics.rate(results, prompts, **how)
        lines.append(
            {
                "policy": name,
                "accuracy": rate.rate,
                "ci_low": rate.low,
                "ci_high": rate.high,
                "pairs": len(pairs),
                "ceiling": top,
            }
        )
    return lines


def held_out_pairs(params: "Params") -> list[Pair]:
    """At most `evaluate.pairs` untied pairs of the held-out split, the first by hash of their ids."""
    table = comparisons.read(COMPARISONS)
    found = make_pairs(table, params.evaluate.split, params.pairs.rule, tuple(params.pairs.raters))
    return sorted(found, key=lambda pair: files.sha256_bytes(pair.pair_id.encode()))[: params.evaluate.pairs]


def policy_rewards(params: "Params", names: Sequence[str], pairs: Sequence[Pair]) -> dict[str, Floats]:
    """Rewards [N, 2] of winner and loser by each trained policy, over the timesteps that its objective is over.

    Policies with the same init and timesteps share the reference's errors.
    """
    settings, family, device = params.evaluate, params.model.family, default_device()
    stored, prompts = shards.Shards(SHARDS, "images"), shards.Shards(SHARDS, "prompts")
    encoder = families.load(family, params.model.path, ())
    shards.check_fingerprint(stored.manifest, encoder.fingerprint(), params.precompute.resolution)
    references = {
        name: (p.init, p.timesteps, p.timestep_density) for name, p in trained(params).items() if name in names
    }
    progress = Progress("implicit reward", len(pairs) * settings.draws * (len(names) + len(set(references.values()))))

    def errors(model: families.Family, timesteps: tuple[float, float], density: Density) -> Floats:
        return implicit.errors(
            model.denoise,
            pairs,
            stored,
            prompts,
            times=Times(model.process, *timesteps, density),
            draws=settings.draws,
            seed=settings.seed,
            batch_size=settings.batch_size,
            device=device,
            done=progress.update,
        )

    rewards = {}
    for init, timesteps, density in dict.fromkeys(references.values()):
        model = families.load(family, params.model.path, (), device)
        model.load_denoiser(Path(init))
        reference = errors(model, timesteps, density)
        for name in (n for n in names if references[n] == (init, timesteps, density)):
            model = policies.load_policy(family, params.model.path, POLICIES / name, device, ())
            rewards[name] = implicit.rewards(reference, errors(model, timesteps, density))
    return rewards


def ceiling(pairs: Sequence[Pair], judges: Sequence[Scorer], max_pixels: int) -> float | None:
    """How often the oracle ranks these very pairs as their raters did.

    Raters are noisy: a reward that learns what they have in common can't be expected to agree with them more often.
    None where the oracle isn't a judge, or can't score every pair: of some pairs only it would be another figure.
    """
    oracle = next((judge for judge in judges if judge.name == "oracle"), None)
    if oracle is None or not pairs:
        return None
    prompts: dict[str, set[str]] = {}  # of each image: it may stand in several pairs
    for pair in pairs:
        for key in (pair.image_w, pair.image_l):
            prompts.setdefault(key, set()).add(pair.prompt)
    scores: dict[tuple[str, str], float] = {}
    for key, data in comparisons.iter_images(COMPARISONS, set(prompts)):
        pixels = np.asarray(images.decode(data, max_pixels))
        for prompt in prompts[key]:
            scores[key, prompt] = float(oracle([pixels], [prompt])["oracle"][0])
    score_w = [scores[pair.image_w, pair.prompt] for pair in pairs]
    score_l = [scores[pair.image_l, pair.prompt] for pair in pairs]
    results = statistics.outcomes(score_w, score_l)
    return None if np.isnan(results).any() else float(results.mean())
