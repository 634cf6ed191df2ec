"""What the judges of params.yaml lack: packages, weights, policies. For use before hours of work."""

from collections.abc import Iterator, Mapping
from typing import Any

from diffalign.core import shipped
from diffalign.core.errors import UserError
from diffalign.evaluation import imagenet
from diffalign.rewards import reward as rewards


def messages(params: Mapping[str, Any]) -> list[str]:
    """Returns a message for each thing that is missing; `params` are those of params.yaml as plain values.

    Judges are named in `rewards`, `data.filters`, `audit.filters`, `audit.attributes` and, by their features, in
    `evaluate.alarms`.
    """
    found = [message for name, settings in asked(params) for message in rewards.lacking({name: settings})]
    if params["evaluate"]["alarms"]["features"] == "efficientnet_lite0":
        try:
            shipped.path(imagenet.WEIGHTS)
        except UserError as error:
            found.append(f"evaluate.alarms.features: {error}")
    return list(dict.fromkeys(found))


def asked(params: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yields each reward's name and settings, of every section that names one."""
    yield from params["rewards"].items()
    sections = (params["data"]["filters"], params["audit"]["filters"], params["audit"]["attributes"])
    for one in (value for section in sections for value in section.values()):
        if "reward" in one:  # the others are lists of words, and attributes of the shapes world
            yield one["reward"], one["settings"]
