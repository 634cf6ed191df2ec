"""Reads the deployments of prefect.yaml: a schedule that can't be is refused with its place in the file."""

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from prefect import Flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import MissingFlowError, ScriptError
from prefect.flows import load_flow_from_entrypoint
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType
from pydantic import BaseModel, ValidationError, field_validator

from diffalign.core import yaml_file
from diffalign.core.errors import UserError


class Schedule(BaseModel):
    """When a deployment runs. The values that may be left out are Prefect's own."""

    cron: str
    timezone: str = "UTC"
    active: bool = True

    @field_validator("cron")
    @classmethod
    def five_fields(cls, text: str) -> str:
        """Refuses what isn't a cron string, as Prefect understands them."""
        try:
            Cron(text)
        except ValueError:
            expected = 'minute, hour, day of the month, month and day of the week, such as "0 2 * * *"'
            raise ValueError(f"expected {expected}") from None
        return text

    @field_validator("timezone")
    @classmethod
    def known(cls, name: str) -> str:
        """Refuses a time zone that this machine doesn't know."""
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # unknown; not a relative path; a folder
            raise ValueError("expected a time zone's name, such as UTC or Europe/Berlin") from None
        return name


class Deployment(BaseModel):
    """An entry under `deployments` in prefect.yaml; keys that only `prefect deploy` reads may stand there, too."""

    name: str
    entrypoint: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    schedules: list[Schedule]
    concurrency_limit: ConcurrencyLimitConfig


class File(BaseModel):
    """prefect.yaml."""

    deployments: list[Deployment]


def read(path: Path) -> list[Deployment]:
    """Reads a prefect.yaml; raises UserError that lists all errors with their places."""
    try:
        return File.model_validate(yaml_file.read(path)).deployments
    except FileNotFoundError:
        raise UserError(f"{path} is missing: expected the deployments to serve there") from None
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {_what(e)}" for e in error.errors()]
        raise UserError("\n  ".join([f"{path}: correct this, and serve again:", *lines])) from None


def _what(error: Any) -> str:
    words = str(error["msg"]).removeprefix("Value error, ")
    return f"{words[0].lower()}{words[1:]}, got {error['input']!r:.80}" if error["type"] != "missing" else "missing"


def make(path: Path) -> list[RunnerDeployment]:
    """Makes the deployments in a prefect.yaml: name, parameters, cron schedules and concurrency limit of each."""
    return [_deployment(entry, f"{path}: deployments.{n}") for n, entry in enumerate(read(path))]


def _deployment(entry: Deployment, where: str) -> RunnerDeployment:
    try:
        flow: Flow[..., Any] = load_flow_from_entrypoint(entry.entrypoint)
    except (MissingFlowError, ScriptError, FileNotFoundError, AttributeError, ValueError) as error:
        raise UserError(
            f"{where}.entrypoint: expected FILE:FLOW of this project, such as flows/align.py:align, got "
            f"{entry.entrypoint!r} ({str(error).splitlines()[0]})"
        ) from error
    made = flow.to_deployment(
        name=entry.name,
        description=entry.description,
        parameters=entry.parameters,
        schedules=[Cron(s.cron, timezone=s.timezone, active=s.active) for s in entry.schedules],
        concurrency_limit=entry.concurrency_limit,
        entrypoint_type=EntrypointType.FILE_PATH if ":" in entry.entrypoint else EntrypointType.MODULE_PATH,
    )
    assert isinstance(made, RunnerDeployment)  # a coroutine only where it's called from one
    return made
