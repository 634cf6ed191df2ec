"""report: metrics, curves and images into one HTML file, a before/after picture, data of DVC's plots, model cards."""

from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.core import files
from diffalign.core.publishing import replacing
from diffalign.evaluation.intervals import Interval
from diffalign.reporting import card, material, page, plot_files
from diffalign.reporting.card_file import CARDS
from diffalign.reporting.material import Settings
from diffalign.reporting.sections import before_after

if TYPE_CHECKING:
    from diffalign.config.params import Params

OUT = Path("reports")


def run(params: "Params") -> None:
    """Writes `reports/report.html`, `reports/grid.png`, `reports/plots/NAME.json`, and `reports/cards/NAME/`.

    Raises UserError where an input is missing, was edited, or is of another run's images.
    """
    report = material.read(settings(params))
    html, picture = page.render(report), before_after.picture(report)
    with replacing(OUT) as folder:
        if picture is not None:
            files.write_bytes(folder / "grid.png", picture)
        files.write_text(folder / "report.html", html)
        for name, rows in plot_files.tables(report).items():
            files.write_json(folder / "plots" / f"{name}.json", rows)
        card.write(report, folder / CARDS.name)


def settings(params: "Params") -> Settings:
    """Returns what the report needs of the params."""
    evaluate, report = params.evaluate, params.report
    return Settings(
        title=report.title,
        best=report.best,
        worst=report.worst,
        random=report.random,
        seed=report.seed,
        policies=params.policies,
        baseline=evaluate.baseline,
        rewards=list(params.rewards),
        reward_models=list(params.reward_models),
        interval=Interval(evaluate.bootstrap, evaluate.confidence, evaluate.seed),
        sampling={name: params.sampling(name) for name in params.policies},
        draws=evaluate.draws,
        thresholds=params.probe.model_dump(),
        parameters=params.model_dump(),
    )
