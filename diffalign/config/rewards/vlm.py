"""The settings of a vision-language model as a judge."""

from typing import Annotated

from pydantic import Field

from diffalign.config.rewards.service import Service
from diffalign.config.values import Name


class Settings(Service):
    """A model behind an endpoint that speaks OpenAI's protocol, and the questions that it is asked.

    `url`: the endpoint, without /chat/completions. `model`: its name there. `questions`: by name, each to be answered
    yes or no, yes being good; {prompt} stands for the prompt.
    """

    model: str
    questions: Annotated[dict[Name, str], Field(min_length=1)]
