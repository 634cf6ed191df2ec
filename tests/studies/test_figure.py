"""The figure of the study's runs on rewards."""

from xml.etree import ElementTree

import pytest

from studies import figure
from studies.claims import BASE
from tests.helpers.study_results import result

JUDGED = "probe/score_oracle/v2"


def test_a_course_is_the_mean_over_seeds_between_the_lowest_and_the_highest() -> None:
    """Training took 10 and 30 seconds: the last point stands at 20, the first, of half of the pictures, at 10."""
    found = {
        "grpo": result([0.0], course={JUDGED: [[100, 0.2], [200, 0.4]]}, training_seconds=10.0),
        "grpo_seed_1": result([0.0], course={JUDGED: [[100, 0.4], [200, 0.8]]}, training_seconds=30.0),
    }
    (line,) = figure.courses(("grpo", "nft"), figure.JUDGED, figure.SECONDS, found)
    assert line.x.tolist() == [10, 20]
    assert line.y == pytest.approx([0.3, 0.6])
    assert line.low is not None and line.low.tolist() == [0.2, 0.4]
    assert line.high is not None and line.high.tolist() == [0.4, 0.8]


def test_a_drawing_has_the_panels_of_what_was_run() -> None:
    """Over pictures and over seconds, and the frontier of one run."""
    found = {BASE: result([0.5] * 9), "grpo": result([0.6] * 9, course={JUDGED: [[100, 0.2], [200, 0.4]]})}
    root = ElementTree.fromstring(figure.drawing(found))
    assert len([one for one in root if one.tag.endswith("}svg")]) == 3
    assert not list(ElementTree.fromstring(figure.drawing({})).iter("{http://www.w3.org/2000/svg}svg"))[1:]
