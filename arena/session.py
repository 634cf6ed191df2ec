"""The next question for a rater: the first unanswered one of their plan, without the policies' names."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from arena.access import Access
from arena.plan import Image, Pair, Settings, Task, plan
from arena.store import Store
from diffalign.data.votes import Answer, Question

ASKED: dict[Question, str] = {
    "overall": "Which image do you prefer, given the prompt?",
    "appeal": "Which image is more appealing to look at, whatever the prompt?",
    "alignment": "Which image fits the prompt better?",
}
RATERS = 256
"""Plans that are kept; another rater's is made again."""


@dataclass(frozen=True)
class Plan:
    """A rater's tasks, in order and by the names under which the browser knows them; its images likewise."""

    tasks: dict[str, Task]
    images: dict[str, str]
    """SHA-256 by name."""


class Sessions:
    """Answers for all raters. What the browser gets are keyed hashes, of which it can learn nothing."""

    def __init__(
        self,
        store: Store,
        access: Access,
        pairs: Sequence[Pair],
        noise: Sequence[Image],
        settings: Settings,
        copies: Path,
    ) -> None:
        self.store, self.access, self.copies = store, access, copies
        self.plan = lru_cache(RATERS)(lambda rater: self._plan(rater, pairs, noise, settings))

    def state(self, rater: str) -> dict[str, Any]:
        """Returns the next question, where to find its images, and the progress; `done` where none is left.

        `undo` is the last answer's name, empty where none was given.
        """
        tasks, answered = self.plan(rater).tasks, self.store.answered(rater)
        open_ = [(name, task) for name, task in tasks.items() if self._left(task, answered)]
        progress = {"number": len(tasks) - len(open_), "total": len(tasks), "undo": self._last(rater)[0]}
        if not open_:
            return {"done": True, **progress}
        name, task = open_[0]
        left = self._left(task, answered)
        step = len(task.questions) - len(left) + 1
        return {
            "done": False,
            **progress,
            "task": name,
            "question": left[0],
            "text": ASKED[left[0]],
            "step": step,
            "steps": len(task.questions),
            "prompt": task.prompt,
            "images": self._names(rater, task),
            "next": self._names(rater, open_[1][1]) if len(open_) > 1 else [],
        }

    def vote(self, rater: str, task: str, question: Question, answer: Answer) -> bool:
        """Keeps an answer; False for a task or question that the rater wasn't asked. Raises Conflict."""
        found = self.plan(rater).tasks.get(task)
        if found is None or question not in found.questions:
            return False
        self.store.vote(rater, found, question, answer)
        return True

    def undo(self, rater: str, name: str) -> bool:
        """Takes back the last answer, if it's of that name: what is sent again doesn't take back the one before."""
        known, number = self._last(rater)
        return known == name and self.store.undo(rater, number)

    def image(self, rater: str, name: str) -> bytes | None:
        """Returns the bytes of an image of the rater's plan; None for any other name."""
        digest = self.plan(rater).images.get(name)
        return None if digest is None else (self.copies / digest).read_bytes()

    def _plan(self, rater: str, pairs: Sequence[Pair], noise: Sequence[Image], settings: Settings) -> Plan:
        tasks = plan(pairs, noise, rater, settings)
        images = {
            name: image.sha256
            for task in tasks
            for name, image in zip(self._names(rater, task), (task.left, task.right), strict=True)
        }
        return Plan({self.access.sign("task", rater, task.kind, task.pair_id)[:24]: task for task in tasks}, images)

    def _last(self, rater: str) -> tuple[str, int | None]:
        """Returns the last answer's name for the browser, and its number."""
        number = self.store.last(rater)
        return "" if number is None else self.access.sign("vote", rater, str(number))[:24], number

    def _names(self, rater: str, task: Task) -> list[str]:
        return [self.access.sign("image", rater, task.kind, task.pair_id, side)[:32] for side in ("left", "right")]

    @staticmethod
    def _left(task: Task, answered: Any) -> list[Question]:
        return [one for one in task.questions if one not in answered.get((task.pair_id, task.kind), ())]
