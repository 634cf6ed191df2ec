"""A vision-language model as a judge, behind an endpoint that speaks OpenAI's chat protocol.

Score: the mean, over a rubric of questions, of the probability that the model's first token is yes rather than no.
Preprocessing is the endpoint's: it gets an 8-bit PNG. Template: the question, with the prompt in it, and a line that
asks for one word. Answers are kept in `runs/scores/`, since they cost money.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffalign.core.files import RUNS, canonical_json, sha256_bytes
from diffalign.core.kept import Kept
from diffalign.rewards.parts.encoded import base64_png, finite
from diffalign.rewards.parts.service import Failed, Service, read_token
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.vlm import Settings

ANSWERS = RUNS / "scores" / "vlm_answers.sqlite"
ONE_WORD = "Answer with one word, Yes or No."
TOP = 20
"""Most likely tokens that are asked for: as many as endpoints give."""
LEAST = 0.5
"""Yes and no together must be this probable: else the model didn't answer the question."""


@dataclass(frozen=True)
class Judge:
    """Scores in [0, 1], the mean of the questions' probabilities of yes; no gradients."""

    asked: Service
    model: str
    questions: Mapping[str, str]
    kept: Kept
    version: str
    families: tuple[str, ...]
    name = "vlm"
    range = (0.0, 1.0)
    differentiable = False
    service = True

    @property
    def trained_on(self) -> str:
        """Returns what is known of the model: its name."""
        return (
            f"Whatever {self.model} learnt from, which its publisher says or doesn't. In-family: policies whose "
            "comparisons it, or a model of its family, answered."
        )

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores [B], float64, of images [B, 3, H, W] in [-1, 1]; NaN where an answer is missing."""
        return self.scores(pixels, prompts)[self.name]

    def scores(self, pixels: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Returns the mean, and `vlm_NAME`, the probability of yes to each question, each [B], float64."""
        images = base64_png(pixels)
        wanted = [
            (image, question.replace("{prompt}", prompt))
            for image, prompt in zip(images, prompts, strict=True)
            for question in self.questions.values()
        ]
        table = torch.tensor(self.answers(wanted), dtype=torch.float64).reshape(len(images), len(self.questions))
        table[~finite(pixels)] = math.nan
        parts = {f"{self.name}_{question}": table[:, i] for i, question in enumerate(self.questions)}
        return {self.name: table.mean(dim=1), **parts}

    def answers(self, wanted: Sequence[tuple[str, str]]) -> list[float]:
        """Returns the probability of yes for each (image in base64, question); kept ones aren't asked again."""
        keys = [(self.model, sha256_bytes(image.encode()), question) for image, question in wanted]
        found = dict(zip(keys, self.kept.get(keys), strict=True))
        left = {key: item for key, item in zip(keys, wanted, strict=True) if found[key] is None}

        def ask(key: tuple[str, str, str]) -> float:
            answer = self.ask(*left[key])
            self.kept.put([(key, answer)])
            return answer

        found |= zip(left, self.asked.ask_all(list(left), ask), strict=True)
        return [math.nan if found[key] is None else float(found[key]) for key in keys]

    def ask(self, image: str, question: str) -> float:
        """Returns the probability of yes rather than no; `Failed` where the answer is neither."""
        content = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
            {"type": "text", "text": f"{question}\n{ONE_WORD}"},
        ]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": TOP,
        }
        return probability_of_yes(self.asked.post(body))


def probability_of_yes(answer: Any) -> float:
    """Returns P(yes) / (P(yes) + P(no)) of an answer's first token, in any case and with any white space around it.

    Raises `Failed` where the answer has no log-probabilities, or yes and no together are less than `LEAST`.
    """
    try:
        tokens = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found = [(str(token["token"]).strip().lower(), math.exp(float(token["logprob"]))) for token in tokens]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        shown = json.dumps(answer)[:120]
        raise Failed(f"expected choices[0].logprobs.content[0].top_logprobs, found {shown}") from error
    yes, no = (sum(p for token, p in found if token == word) for word in ("yes", "no"))
    if not LEAST <= yes + no <= 1.01:
        words = ", ".join(f"{token!r} {p:.2f}" for token, p in found[:3])
        raise Failed(f"expected yes or no as the first word, found {words or 'no token'}")
    return yes / (yes + no)


def check(settings: "Settings") -> None:
    """Raises UserError where its token isn't in the environment."""
    read_token("vlm", settings.token_variable)


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Builds the judge; UserError where its token isn't in the environment. It asks nothing yet."""
    parts = {"model": settings.model, "questions": settings.questions, "one_word": ONE_WORD}
    version = f"1-{sha256_bytes(canonical_json(parts).encode())[:12]}"
    asked = Service("vlm", settings, "/chat/completions")
    return Judge(asked, settings.model, settings.questions, Kept(ANSWERS), version, settings.families)
