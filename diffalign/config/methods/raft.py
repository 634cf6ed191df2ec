"""The settings of a RAFT policy."""

from typing import ClassVar, Literal

from diffalign.config.rollout import Compared, Forwards


class Settings(Compared):
    """RAFT (Dong et al. 2023): fine-tuning on the best of a prompt's pictures."""

    title: ClassVar[str] = "RAFT"
    method: Literal["raft"]

    def forwards(self) -> Forwards:
        """Returns a rollout, and the noise levels of each group's best picture, without guidance."""
        return Forwards(self.rollout.steps * self.halves, 0, self.draws / self.rollout.images_per_prompt)
