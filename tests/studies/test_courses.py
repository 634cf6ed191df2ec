"""What is kept of a training's curve."""

import json
from pathlib import Path

from studies import courses


def test_a_curves_end(tmp_path: Path) -> None:
    """Of 20 points the last two: (18 + 19) / 2."""
    path = tmp_path / "curve.jsonl"
    path.write_text("".join(json.dumps({"step": n, "loss": n, "lr": 1.0}) + "\n" for n in range(20)))
    assert courses.end(courses.read(path)) == {"loss": 18.5}
    path.write_text(json.dumps({"step": 1, "loss": 3.0}) + "\n")
    assert courses.end(courses.read(path)) == {"loss": 3.0}


def test_the_course_of_rewards_is_over_pictures() -> None:
    lines = [
        {"step": 5, "reward_oracle": 0.123456, "reward_std": 0.2, "kl": 0.0},
        {"step": 10, "probe/score_oracle/v1": 0.5, "probe/score_oracle/v1_se": 0.1},
        {"step": 15, "reward_oracle": 0.7, "loss": 1.0},
    ]
    assert courses.course(lines, pictures=32) == {
        "reward_oracle": [[160, 0.1235], [480, 0.7]],
        "kl": [[160, 0.0]],
        "probe/score_oracle/v1": [[320, 0.5]],
    }
    assert courses.end(lines)["reward_oracle_first"] == 0.123456 and courses.end(lines)["reward_oracle"] == 0.7
