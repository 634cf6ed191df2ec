"""raters: each round's votes, or its reward, apart from others', so that no other round is labelled again"""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from diffalign.core import files
from diffalign.core.publishing import replacing
from diffalign.data import votes
from diffalign.judging.noted import noted

if TYPE_CHECKING:
    from diffalign.config.params import Params

OUT, VOTES = Path("data/raters"), Path("data/votes") / votes.ROUNDS


def run(params: "Params") -> None:
    """Writes `data/raters/ROUND` for each round: the votes on its images, or its reward with its settings and weights.

    label@ROUND depends on this folder alone: votes on other images, and other rewards, label it not again.
    """
    found = votes.read(VOTES)
    rewards = params.model_dump(mode="json")["rewards"]
    with replacing(OUT) as folder:
        files.write_json(folder / "rounds.json", list(params.rounds))  # of an empty folder DVC warns
        for name, settings in params.rounds.items():
            own = folder / name
            if settings.by_people:
                with files.writing(own / "votes.parquet") as file:
                    pq.write_table(votes.table(vote for vote in found if votes.round_of(vote) == name), file)
            else:
                files.write_json(own / "reward.json", noted(settings.label, rewards[settings.label]))
