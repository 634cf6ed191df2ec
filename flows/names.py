"""Names and tags of a flow run, which say what it trains: from params.yaml as the run's parameters will have it."""

import sys
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from diffalign.core import home, yaml_file
from diffalign.core.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
COMMAND_LINE = (sys.executable, str(ROOT / "pipeline.py"))
"""How this project's commands are run by a flow."""


def project() -> Path:
    """Returns the folder in which a flow works, wherever its process was started."""
    return home.project(ROOT)


def run_name() -> str:
    """Returns a name such as `align: dpo, sft · sd15`, with what the run overrides behind it; `align` in doubt."""
    asked = flow_run.parameters
    trained, model = about(asked.get("preset"), asked.get("policies"))
    changes = [f"{key}={value}" for key, value in (asked.get("overrides") or {}).items()]
    what = " · ".join(part for part in (", ".join(trained), model, ", ".join(changes)) if part)
    return f"align: {what}" if what else "align"


def about(preset: str | None, policies: list[str] | None) -> tuple[list[str], str]:
    """Returns the policies that are asked for, else those that params.yaml trains, and the name of the model's folder.

    Both are empty where the file can't be read: what is wrong with it is said when it's used.
    """
    try:
        raw: Any = yaml_file.read(home.presets(project())[preset] if preset else project() / "params.yaml")
        trained = [name for name, policy in raw["policies"].items() if policy["method"] != "none"]
        return policies or trained, Path(raw["model"]["path"]).name
    except (UserError, OSError, KeyError, TypeError, AttributeError):
        return policies or [], ""
