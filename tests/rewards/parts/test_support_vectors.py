"""A regression in libsvm's text format: values by hand, and files that aren't one."""

import math
from pathlib import Path

import numpy as np
import pytest

from diffalign.core.errors import UserError
from diffalign.rewards.parts import support_vectors

TEXT = """svm_type epsilon_svr
kernel_type rbf
gamma 0.5
nr_class 2
total_sv 2
rho -3
probA 1.0
SV
2 1:1 2:-1
-4 2:1
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "svm.txt"
    path.write_text(text)
    return path


def test_values_by_hand(tmp_path: Path) -> None:
    """γ = ½, ρ = -3, and what isn't said of a vector is 0: (1, -1) and (0, 1).

    At (1, -1) the squared distances are 0 and 5: 2 - 4e^-2.5 + 3; at the origin 2 and 1: 2e^-1 - 4e^-½ + 3.
    """
    found = support_vectors.read(written(tmp_path, TEXT), 2)(np.array([[1.0, -1.0], [0.0, 0.0]]))
    expected = [5 - 4 * math.exp(-2.5), 2 * math.exp(-1) - 4 * math.exp(-0.5) + 3]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("rbf", "linear", "expected libsvm's text.*'rbf'.*'linear'"),
        ("epsilon_svr", "c_svc", "'epsilon_svr'.*'c_svc'"),
        ("total_sv 2", "total_sv 3", "expected 3 support vectors, found 2"),
        ("2:1\n", "3:1\n", "expected features 1 to 2, found 3"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        support_vectors.read(written(tmp_path, TEXT.replace(old, new)), 2)
