"""gate: metrics in; which policies fulfil the conditions in params, and DVC's summary, out. It fails no pipeline."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.core import files, records
from diffalign.core.home import COMMAND
from diffalign.evaluation import gate, people_results, results, summary_figures, verdicts
from diffalign.evaluation.audits import findings
from diffalign.monitoring import alarms, curve

if TYPE_CHECKING:
    from diffalign.config.params import Params

CURVES = Path("curves")


def run(params: "Params") -> None:
    """Writes `metrics/gate.json` and `metrics/summary.json` and prints a table.

    Raises UserError where metrics are missing or damaged.
    """
    figures = gate.Figures(
        baseline=params.evaluate.baseline,
        evaluation=results.read(),
        audit=findings.read(),
        training_alarms=raised(params),
        people=people_results.read(),
    )
    found = gate.judge(params.gate.conditions, list(params.policies), figures)
    records.write(verdicts.FILE, found)
    summary = summary_figures.figures(figures.evaluation, found, list(params.rewards), figures.training_alarms)
    files.write_json(summary_figures.FILE, summary)
    sys.stdout.write("".join(f"{verdicts.table(policy)}\n" for policy in found.policies))
    passed = [policy.policy for policy in found.policies if policy.verdict == "passed"]
    sys.stdout.write(
        f"{verdicts.FILE}; next: {COMMAND} promote {passed[0]}\n"
        if passed
        else f"{verdicts.FILE}: no policy passes the gate\n"
    )


def raised(params: "Params") -> dict[str, list[str]]:
    """Returns the alarms that each probed training raised, by the thresholds in params."""
    trained = [name for name, policy in params.policies.items() if policy.method != "none"]
    histories = {name: curve.points(curve.read(CURVES / f"{name}.jsonl", name)) for name in trained}
    thresholds = params.probe.model_dump()
    return {n: [alarm.name for alarm in alarms.listed(h, thresholds)] for n, h in histories.items() if h}
