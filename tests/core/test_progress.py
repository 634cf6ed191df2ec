"""Progress lines."""

import pytest

from diffalign.core.progress import Progress, clock


def test_a_line_at_the_end_with_rate_and_extra(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("work", 3)
    for _ in range(3):
        progress.update(extra="loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("work: 3/3 (")
    assert lines[0].endswith("ETA 0:00) loss 0.5")


def test_clock() -> None:
    assert [clock(s) for s in (0, 61, 3661, float("inf"), float("nan"))] == ["0:00", "1:01", "1:01:01", "?", "?"]


def test_what_was_done_before_is_not_in_the_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """90 of 100 were done before; 5 more in 10 s are 0.5/s, and the last 5 take 10 s."""
    times = iter([100.0, 110.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    Progress("work", 100, done=90).update(5)
    assert capsys.readouterr().err == "work: 95/100 (0.5/s, ETA 0:10)\n"
