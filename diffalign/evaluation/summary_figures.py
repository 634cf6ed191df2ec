"""The handful of figures that `dvc metrics show` has a column for: metrics/summary.json, some for each policy."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from diffalign.evaluation.results import Comparison, Evaluation
from diffalign.evaluation.verdicts import Verdicts

FILE = Path("metrics/summary.json")
Summary = dict[str, dict[str, float | int | bool]]


def figures(
    evaluation: Evaluation, verdicts: Verdicts, judges: Sequence[str], training_alarms: Mapping[str, Sequence[str]]
) -> Summary:
    """Returns each policy's figures by name; the baseline, which the others are compared with, has none.

    `win_rate` is by the first of the judges, on the first set of prompts that it judged. A figure that wasn't measured
    isn't there. `gate_passed` is false where a condition failed or wasn't measured.
    """
    found: Summary = {}
    for ruled in verdicts.policies:
        row = headline(evaluation, ruled.policy, judges)
        rates = {"win_rate": row.win_rate, "win_rate_low": row.ci_low, "win_rate_high": row.ci_high} if row else {}
        accuracies = {one.policy: one.accuracy for one in evaluation.implicit_reward}
        raised = [one for one in evaluation.alarms if one.policy == ruled.policy and one.verdict == "raised"]
        measured = {**rates, "implicit_accuracy": accuracies.get(ruled.policy)}
        found[ruled.policy] = {
            **{name: value for name, value in measured.items() if value is not None},
            "alarms": len(raised) + len(training_alarms.get(ruled.policy, ())),
            "gate_passed": ruled.verdict == "passed",
        }
    return found


def headline(evaluation: Evaluation, policy: str, judges: Sequence[str]) -> Comparison | None:
    """Returns a policy's first comparison with the baseline by the first judge; None without judges."""
    return next((row for row in evaluation.comparisons if row.policy == policy and row.scorer in judges[:1]), None)
