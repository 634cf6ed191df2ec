"""The settings of a RAFT policy."""

from typing import ClassVar, Literal

from diffalign.config.rollout import Compared


class Settings(Compared):
    """RAFT (Dong et al. 2023): fine-tuning on the best of a prompt's pictures."""

    title: ClassVar[str] = "RAFT"
    method: Literal["raft"]
