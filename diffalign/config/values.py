"""The kinds of values that params have, and the frozen model that all their sections are. Without torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

HeldOut = Literal["validation", "test"]
PromptSet = Literal["parti", "hpsv2", "pickapic_test", "drawbench", "geneval"]
"""The published sets of prompts, each a module of `diffalign/data/prompts/`."""
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Span = tuple[Share, Share]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Density = Literal["uniform", "logit_normal", "logit_normal_shifted"]
Flip = Literal["none", "pair", "independent"]
Flag = StrictBool
"""true or false, not a word such as `no`, which is text for DVC."""
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Model(BaseModel):
    """A section of params: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)
