"""Settings of each policy's images: the section `generate` of params.yaml."""

from pathlib import PurePosixPath
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field

from diffalign.config.rules import BestOf, MixBase, Optimise
from diffalign.config.samplers import Sampler
from diffalign.config.values import Count, HeldOut, Model, Name, PromptSet
from diffalign.core.errors import UserError

Steps = Annotated[int, Field(ge=1, le=500)]
Guidance = Annotated[float, Field(ge=1, allow_inf_nan=False)]
HELD_OUT, NAMED = get_args(HeldOut), get_args(PromptSet)
SIZES = {"parti": 1632, "hpsv2": 3200, "pickapic_test": 500, "drawbench": 200, "geneval": 553}
"""The prompts of the published sets."""
SUFFIXES = (".txt", ".tsv")
"""Of files with prompts of one's own."""


def spelled_out(prompts: Any) -> Any:
    """Returns `prompts` as a mapping: a name alone is a whole set, a number alone so many of the test split."""
    if isinstance(prompts, str):
        return {prompts: None}
    return {"test": prompts} if isinstance(prompts, int) and not isinstance(prompts, bool) else prompts


def number(count: Any) -> Any:
    """Returns None for the word all."""
    return None if count == "all" else count


HowMany = Annotated[Count | None, BeforeValidator(number)]
Prompts = Annotated[dict[str, HowMany], BeforeValidator(spelled_out), Field(min_length=1)]


class Override(Model):
    """The settings that differ for one policy's images; a key that isn't there is as for all."""

    sampler: Sampler | None = None
    steps: Steps | None = None
    guidance: Guidance | None = None
    optimise: Optimise | None = None
    best_of: BestOf | None = None
    mix_base: MixBase | None = None
    rater: str | None = None
    """The rater whom a policy with rater tokens draws for; None: nobody."""

    @property
    def by_reward(self) -> Optimise | BestOf | None:
        """Returns the rule by which a reward decides on the images, if there is one."""
        return self.optimise or self.best_of

    @property
    def rules(self) -> dict[str, dict[str, Any]]:
        """Returns the rules of sampling with their settings, by name."""
        found = {"optimise": self.optimise, "best_of": self.best_of, "mix_base": self.mix_base}
        whose = {"rater": {"id": self.rater}} if self.rater else {}
        return {name: rule.model_dump() for name, rule in found.items() if rule} | whose


class Generate(Model):
    """Images of each policy for held-out prompts, some of each set; None: all of it."""

    prompts: Prompts
    own_prompts: str
    """The file or folder of prompts of one's own: a dependency of DVC's, which can't tell files from sets by name."""
    seeds: Count
    sampler: Sampler
    steps: Steps
    guidance: Guidance
    overrides: dict[Name, Override]
    batch_size: Count

    @property
    def fetched(self) -> list[str]:
        """Returns the published prompt sets among `prompts`."""
        return [name for name in self.prompts if name in NAMED]

    def counts(self) -> dict[str, int]:
        """Returns how many prompts are asked for, by set; UserError for all of a set whose size isn't known unread."""
        counts = {name: SIZES.get(name) if count is None else count for name, count in self.prompts.items()}
        if unknown := [name for name, count in counts.items() if count is None]:
            raise UserError(f"generate.prompts: expected a number of {', '.join(unknown)}, found all. Say how many.")
        return {name: count for name, count in counts.items() if count is not None}

    def problems(self) -> list[str]:
        """Lists the prompt sets that there aren't, and a path that isn't below the project, as `KEY: what`."""
        known = f"{', '.join((*HELD_OUT, *NAMED))}, or a .txt or .tsv file that is own_prompts or lies in it"
        lines = [f"own_prompts: expected a path below the project, got {self.own_prompts!r}"]
        return ([] if is_below(self.own_prompts) else lines) + [
            f"prompts.{name}: expected {known}, got {name!r}{self._remedy(name)}"
            for name in self.prompts
            if name not in HELD_OUT and name not in NAMED and not self._is_own(name)
        ]

    def _is_own(self, name: str) -> bool:
        """Tells whether a name is that of a file with prompts which DVC watches."""
        return is_file(name) and PurePosixPath(name).is_relative_to(self.own_prompts)

    def _remedy(self, name: str) -> str:
        """Returns what to do about a name that isn't a set's, where that's known."""
        if name == "train":
            return ". Images of training prompts would flatter: they are for held-out ones"
        if is_file(name):
            return f". Add generate.own_prompts: {name}, so that DVC sees its changes (it is {self.own_prompts} now)"
        return ""

    def sampling(self, policy: str) -> dict[str, Any]:
        """Returns a policy's `sampler` (its name and settings), `steps`, `guidance` and `rules`, for its images."""
        shared = {key: getattr(self, key) for key in ("sampler", "steps", "guidance")}
        own = self.override(policy)
        chosen = shared | {key: value for key in shared if (value := getattr(own, key)) is not None}
        return chosen | {"sampler": chosen["sampler"].model_dump(), "rules": own.rules}

    def override(self, policy: str) -> Override:
        """Returns what differs for a policy's images; nothing where `overrides` doesn't have it."""
        return self.overrides.get(policy, Override())


def is_below(path: str) -> bool:
    """Tells whether a path is below the project's folder."""
    parts = PurePosixPath(path).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts


def is_file(name: str) -> bool:
    """Tells whether a name is that of a file with prompts below the project's folder."""
    return is_below(name) and PurePosixPath(name).suffix in SUFFIXES
