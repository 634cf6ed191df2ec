"""Puts models into MLflow: logged models with their metrics and data set, versions in the registry, aliases."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffalign.core.errors import UserError
from diffalign.tracking.location import uri
from diffalign.tracking.mlflow_store import Store, reaching

ADDRESS = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class DataSet:
    """The comparisons that a model was trained on, as MLflow shows them."""

    name: str
    digest: str
    """At most 36 characters."""
    path: str
    profile: Mapping[str, Any]
    """Its size and the like."""


@dataclass(frozen=True)
class Upload:
    """What is to be registered."""

    name: str
    """The registered model's."""
    policy: str
    tags: Mapping[str, str]
    """Of the version; `identity` is among them."""
    metrics: Mapping[str, float]
    data: DataSet


def find_version(store: Store, name: str, tags: Mapping[str, str]) -> Any | None:
    """Returns the newest version of a registered model that has all the tags; None where there is none."""
    with reaching():
        found = store.client.search_model_versions(f"name = '{name}'")
    fitting = [version for version in found if tags.items() <= version.tags.items()]
    return max(fitting, key=lambda version: int(version.version), default=None)


def version_of(store: Store, name: str, number: int) -> Any:
    """Returns a version by its number; UserError naming those that are there."""
    with reaching():
        found = {int(v.version): v for v in store.client.search_model_versions(f"name = '{name}'")}
    if number not in found:
        raise UserError(
            f"promote: expected one of the versions {', '.join(map(str, sorted(found))) or 'none so far'} of {name} in "
            f"MLflow at {store.place}, got {number}"
        )
    return found[number]


def register(store: Store, run_id: str, folder: Path, upload: Upload) -> Any:
    """Logs a model folder as a model of a run, links its metrics and data set, and returns its new version."""
    with reaching():
        logged = store.client.create_logged_model(
            store.experiment,
            name=upload.policy,
            source_run_id=run_id,
            tags=dict(upload.tags),
            model_type="diffusers",
        )
        sys.stderr.write(f"promote: copies {folder} to MLflow at {store.place}\n")
        store.client.log_model_artifacts(logged.model_id, str(folder))
        store.client.finalize_logged_model(logged.model_id, "READY")
        link(store, run_id, logged.model_id, upload)
        if not store.client.search_registered_models(f"name = '{upload.name}'"):
            store.client.create_registered_model(upload.name)
        with as_default(uri()):
            return store.client.create_model_version(
                upload.name,
                source=f"models:/{logged.model_id}",
                run_id=run_id,
                model_id=logged.model_id,
                tags=dict(upload.tags),
            )


@contextmanager
def as_default(address: str) -> Iterator[None]:
    """Names MLflow's address in the environment for a while: its registry looks a model's files up there."""
    before = os.environ.get(ADDRESS)
    os.environ[ADDRESS] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[ADDRESS]
        else:
            os.environ[ADDRESS] = before


def link(store: Store, run_id: str, model_id: str, upload: Upload) -> None:
    """Notes on a run that it made the model of these data, and the model's metrics on them."""
    e, data = store.entities, upload.data
    kept = e.Dataset(
        name=data.name,
        digest=data.digest,
        source_type="local",
        source=json.dumps({"path": data.path}),
        profile=json.dumps(dict(data.profile)),
    )
    context = e.InputTag("mlflow.data.context", "training")
    store.client.log_inputs(run_id, datasets=[e.DatasetInput(kept, [context])])
    store.client.log_outputs(run_id, [e.LoggedModelOutput(model_id, 0)])
    now = int(time.time() * 1000)
    metrics = [
        e.Metric(key, value, now, 0, model_id=model_id, dataset_name=data.name, dataset_digest=data.digest)
        for key, value in upload.metrics.items()
    ]
    for first in range(0, len(metrics), 1000):
        store.client.log_batch(run_id, metrics=metrics[first : first + 1000])


def set_alias(store: Store, name: str, alias: str, version: Any, tags: Mapping[str, str]) -> str | None:
    """Moves an alias to a version, updates the version's tags, and returns the version that had the alias before."""
    with reaching():
        before = store.client.search_registered_models(f"name = '{name}'")[0].aliases.get(alias)
        for key, value in tags.items():
            store.client.set_model_version_tag(name, version.version, key, value)
        store.client.set_registered_model_alias(name, alias, version.version)
    return None if before is None else str(before)
