"""benchmarks/methods.py on a few pictures: equal gradients, every loop's turn, what it writes and refuses."""

import json
from pathlib import Path

import pytest

from benchmarks import methods, results
from diffalign.core.errors import UserError


@pytest.mark.slow
def test_both_loops_have_the_same_gradients_and_take_their_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve forwards' worth a picture: three steps, guided, rolled out and trained on."""
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setenv("DIFFALIGN_COMPILE", "0")
    options = methods.parse(["--quick", "--samples", "4", "--rows", "8"])
    found = json.loads(results.write(methods.run(options), "few", methods.markdown).read_text())
    rows = found["contenders"]
    assert [row["micro_batch"] for row in rows.values()] == [1, 4, 4, 8, 8]
    norms = [row["first_norm"] for name, row in rows.items() if name != methods.HALF]
    assert min(norms) > 0 and max(norms) / min(norms) - 1 < 2 * methods.TOLERANCE
    for row in rows.values():
        assert row["ratios"] == [row["rates"][0] / rows[methods.FIRST]["rates"][0]]
        assert sum(row["parts"].values()) == pytest.approx(4 / row["samples_per_second"])
        assert all(seconds > 0 for seconds in row["parts"].values())
    assert "python -m benchmarks.methods --arch tiny" in (tmp_path / "few.md").read_text()


def test_what_cant_be_is_refused() -> None:
    """Pictures come in fours, a prompt's."""
    with pytest.raises(UserError, match="--samples: expected a multiple of 4"):
        methods.parse(["--samples", "6"])
