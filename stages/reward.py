"""reward@NAME: comparisons in; a reward model that learnt from them, and its training curve, out."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diffalign.core.errors import UserError
from diffalign.core.files import hash_folder, lock, remove, work_folder, write_json, write_text
from diffalign.core.publishing import check_target, publish
from diffalign.reward_training import loop
from diffalign.reward_training.loop import Spec
from diffalign.rewards.parts.card import Card
from diffalign.runtime import devices, environment
from diffalign.training.curve_file import LOGGED_STEPS, show_live

if TYPE_CHECKING:
    from diffalign.config.params import Params

COMPARISONS, MODELS = Path("data/comparisons"), Path("models/rewards")
CURVES, METRICS = Path("curves/rewards"), Path("metrics/rewards")


def run(params: "Params", name: str | None = None) -> None:
    """Trains one reward model, going on from where a killed attempt of the same work stopped."""
    if name is None or name not in params.reward_models:
        raise UserError(f"reward@{name}: expected one of the reward_models {sorted(params.reward_models)}")
    settings, out = params.reward_models[name], MODELS / name
    check_target(out)
    if not (init := Path(settings.init)).is_dir():
        raise UserError(f"reward_models.{name}.init: expected the folder of a CLIP, found none at {init}")
    device, precision = environment.default_device(), environment.precision()
    devices.set_up(torch.device(device), precision)
    spec = Spec(
        name=name,
        settings=settings,
        pairs=params.pairs,
        comparisons=COMPARISONS,
        max_image_pixels=params.data.max_image_pixels,
        init_fingerprint=hash_folder(init),
        runtime=params.runtime,
        machine={
            "device": device,
            "gpu": environment.gpu(),
            "threads": environment.threads(1),
            "precision": precision,
            "torch": torch.__version__,
        },
    )
    work = work_folder(f"reward-{name}", spec.owner(), [COMPARISONS / "comparisons.parquet"])
    with lock(work):
        show_live(work, f"reward@{name}")
        card = loop.run(spec, work)
        publish(work / "out", out)
        write_text(CURVES / f"{name}.jsonl", (work / LOGGED_STEPS).read_text())
        write_json(METRICS / f"{name}.json", card.model_dump(mode="json", exclude={"settings", "environments"}))
        remove(work / "checkpoints")  # first: none may outlive the curve that leads to it
        remove(work)
    sys.stderr.write(told(name, out, card))


def told(name: str, out: Path, card: Card) -> str:
    """Says how good the reward model is, where it is, and what comes next."""
    found = card.validation
    rate = (
        "no held-out pairs to validate on"
        if found.accuracy is None
        else f"ranks {found.accuracy:.1%} [{found.ci_low:.1%}, {found.ci_high:.1%}] of {found.pairs} validation pairs "
        f"as their raters did, {card.before.accuracy:.1%} before training"
    )
    return f"reward {name}: {out}, of step {card.step}; {rate}. Scores with it: dvc repro score@learned\n"
