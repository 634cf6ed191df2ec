"""No training: the policy is its `init`, such as the base that others are compared with."""

from typing import Any, NoReturn


def build(settings: Any, context: Any) -> NoReturn:
    """Raises: nothing trains such a policy, and the stage publishes it without asking for a method."""
    raise ValueError("method none: expected a policy that trains")
