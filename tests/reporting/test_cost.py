"""The report's section on cost counts work, which equal runs share, and no time."""

from pathlib import Path

from diffalign.config.params import Params
from diffalign.core.files import write_json
from diffalign.reporting.policy_file import Environment, PolicyWork
from diffalign.reporting.sections import cost
from stages import report
from tests.helpers.report_inputs import Page


def test_the_counts_by_hand(project: Params) -> None:
    """17 images of 2 steps under guidance 4: 4 forwards an image, 68 in all."""
    policy = project.policies["dpo"]
    seen = policy.steps * policy.batch_size
    write_json(Path("models/policies/dpo/policy.json"), {"pairs": 10, "environments": [{"gpu": "H100"}], "loss": 1.0})
    report.run(project)
    section = Path("reports/report.html").read_text().split('<section id="cost">')[1].split("</section>")[0]
    text = " ".join(Page(section.replace("<td", " <td")).text.split())
    assert f"{seen:,} 10 {seen / 10:.1f} live 1 × H100, fp32" in text
    assert f"{seen:,} – – live –" in text, "sft has no record"
    assert "dpo 17 4 68" in text and "scored by 1 judge." in text


def test_a_training_that_moved_names_both_machines() -> None:
    first = Environment(gpu=None, processes=1, threads=2, precision="fp32", compiled=False)
    second = Environment(gpu="H100", processes=8, threads=4, precision="bf16", compiled=True)
    found = cost.machine(PolicyWork(environments=(first, first, second)))
    assert found == "1 × 2 CPU threads, fp32, then 8 × H100, bf16, compiled"
