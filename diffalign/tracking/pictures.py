"""Logs the pictures of a training's probes, which MLflow shows by step."""

import re
from pathlib import Path

from PIL import Image

from diffalign.tracking.mlflow_store import Store, reaching

PROBE = "probe"
"""The name under which MLflow shows the pictures."""
STEP = re.compile(r"step-(\d+)\.png")


def log_probes(store: Store, run_id: str, folder: Path) -> None:
    """Logs the probes' pictures, `step-XXXXXX.png` in a folder that needn't be there, but those that were logged."""
    found = {int(match[1]): path for path in sorted(folder.glob("*.png")) if (match := STEP.fullmatch(path.name))}
    if found:
        logged = steps(store, run_id)
        for step, path in found.items():
            if step not in logged:
                with reaching(), Image.open(path) as image:
                    store.client.log_image(run_id, image, key=PROBE, step=step, synchronous=True)


def steps(store: Store, run_id: str) -> set[int]:
    """Returns the steps whose pictures a run has, by the names that MLflow gives these files."""
    with reaching():
        names = [entry.path for entry in store.client.list_artifacts(run_id, "images")]
    return {int(match[1]) for name in names if (match := re.match(rf"images/{PROBE}[%+]step[%+](\d+)[%+]", name))}
