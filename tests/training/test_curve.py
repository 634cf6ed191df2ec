"""The curve of a training that goes on: cut to the checkpoint's step; damaged before that, one message."""

from pathlib import Path

import pytest

from diffalign.core.errors import UserError
from diffalign.training.curve_file import cut
from diffalign.training.monitor import read_lines

LINES = [b'{"step": %d, "loss": 0.5, "probe/se": NaN}\n' % step for step in (2, 4, 6)]


def left(tmp_path: Path, data: bytes, step: int) -> bytes:
    """What a curve has after it was cut."""
    curve = tmp_path / "curve.jsonl"
    curve.write_bytes(data)
    cut(curve, step)
    assert [line["step"] for line in read_lines(curve)] == [2, 4][: curve.read_bytes().count(b"\n")]
    return curve.read_bytes()


@pytest.mark.parametrize(
    "rest", [b"", LINES[2], b'{"step": 6, "lo', b"\0" * 512, LINES[2] + b"[]\n", b"\xff\n", b"{}\n"]
)
def test_what_a_crash_left_after_the_checkpoint_goes(tmp_path: Path, rest: bytes) -> None:
    assert left(tmp_path, LINES[0] + LINES[1] + rest, 4) == LINES[0] + LINES[1]
    assert left(tmp_path, LINES[0] + LINES[1] + rest, 5) == LINES[0] + LINES[1]


def test_a_training_that_starts_anew_has_no_curve(tmp_path: Path) -> None:
    assert left(tmp_path, b"".join(LINES), 0) == left(tmp_path, b"x\n" + LINES[0], 0) == b""
    cut(tmp_path / "none.jsonl", 0)
    assert (tmp_path / "none.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    "bad", [b'{"step": 2, "lo\n', b"[1]\n", b'{"loss": 1}\n', b"\xff\n", b'{"step": 2, "loss": "x"}\n']
)
def test_a_curve_that_was_damaged_before_the_checkpoint_is_named(tmp_path: Path, bad: bytes) -> None:
    with pytest.raises(UserError, match=rf"curve\.jsonl: line 1: .*Remove {tmp_path} and run the same command"):
        left(tmp_path, bad + LINES[1] + LINES[2], 4)
