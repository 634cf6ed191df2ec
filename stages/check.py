"""check: params.yaml in, a constant out, before all other stages: a wrong key stops DVC before it deletes outs"""

from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.core import files

if TYPE_CHECKING:
    from diffalign.config.params import Params

OUT = Path("data/checked.txt")


def run(params: "Params") -> None:
    """Writes `data/checked.txt`. The params are typed and checked before any stage's `run`; here nothing else follows.

    DVC deletes a stage's outs before it runs the stage. This out never differs, so that its stage makes no other run.
    """
    files.write_text(OUT, "params.yaml is valid.\n")
