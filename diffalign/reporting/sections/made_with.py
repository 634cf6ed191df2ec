"""The report's section on what it was made with: versions, the commit, and all parameters."""

from typing import Any

import yaml

from diffalign.reporting import made_by
from diffalign.reporting.material import Material


def context(report: Material) -> dict[str, Any]:
    """Returns versions, and params.yaml as text."""
    parameters = yaml.safe_dump(dict(report.settings.parameters), sort_keys=False, allow_unicode=True)
    return {"versions": made_by.versions(), "parameters": parameters}
