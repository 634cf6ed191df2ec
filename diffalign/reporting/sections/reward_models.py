"""The report's section on the reward models that this project trained: how well they rank pairs, before and after."""

from typing import Any

from diffalign.reporting import charts
from diffalign.reporting.material import Material
from diffalign.reporting.reward_file import Ranked, RewardModel


def context(report: Material) -> dict[str, Any] | None:
    """Returns each model's accuracy before and after its training; None where none was trained."""
    models = report.reward_models
    return {"models": [of_model(model) for model in models], "axis": charts.interval_axis()} if models else None


def of_model(model: RewardModel) -> dict[str, Any]:
    """Returns one model's two bars."""
    rows = (("before training", model.before, "c5"), (f"at step {model.step:,}", model.validation, "c0"))
    return {**model.model_dump(), "rows": [bar(label, ranked, style) for label, ranked, style in rows]}


def bar(label: str, ranked: Ranked, style: str) -> dict[str, Any]:
    """Returns an accuracy with its bar."""
    svg = charts.interval_bar(ranked.accuracy, ranked.ci_low, ranked.ci_high, style)
    return {**ranked.model_dump(), "label": label, "bar": svg}
