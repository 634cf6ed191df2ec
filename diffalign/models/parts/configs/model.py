"""The config files of a model folder read together, and the values that must agree between them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from diffalign.core.errors import UserError
from diffalign.core.records import shortened
from diffalign.models.parts.configs.autoencoder import Autoencoder
from diffalign.models.parts.configs.schema import Config, read, refusal
from diffalign.models.parts.configs.text import CLIPText, CLIPTokenizerFile

CONFIG, SCHEDULER, INDEX = "config.json", "scheduler/scheduler_config.json", "model_index.json"


class Index(Config):
    """The fields of model_index.json on the pipeline; the others repeat the classes that the parts' files name."""

    model_config = ConfigDict(extra="ignore")
    class_name: str = Field(alias="_class_name")
    force_zeros_for_empty_prompt: bool = True
    """Whether guidance moves away from zeros or from the empty prompt; true is the stock SDXL pipeline's default."""
    requires_aesthetics_score: bool = False
    """Whether the denoiser is told a score instead of a target size, as SDXL's refiner is."""


class Agreement:
    """Collects values of several config files that must agree; `done` raises one UserError for those that don't."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def equal(self, file: Path, key: str, found: Any, expected: Any, why: str) -> None:
        """Notes a value that isn't the expected one; `why` says where that comes from."""
        if found != expected:
            self.lines.append(f"{file}: {key}: expected {shortened(expected)} ({why}), found {shortened(found)}")

    def done(self) -> None:
        """Raises UserError if values disagreed."""
        if self.lines:
            raise UserError(refusal(self.lines))


def read_index(model: Path, pipeline: str) -> Index:
    """Reads model_index.json, where there is one; UserError if it names another pipeline than the family's."""
    path = model / INDEX
    if not path.is_file():
        return Index(_class_name=pipeline)
    index = read(Index, path)
    agreement = Agreement()
    agreement.equal(path, "_class_name", index.class_name, pipeline, "the pipeline of model.family")
    agreement.equal(path, "requires_aesthetics_score", index.requires_aesthetics_score, False, "supported are sizes")
    agreement.done()
    return index


def read_vae(model: Path) -> Autoencoder:
    """Reads the VAE's config."""
    return read(Autoencoder, model / "vae" / CONFIG)


def read_clips(model: Path, suffixes: Sequence[str]) -> list[CLIPText]:
    """Reads the configs of CLIP text encoders and of their tokenizers; all must take prompts of one length."""
    clips, agreement = [], Agreement()
    for suffix in suffixes:
        clips.append(read(CLIPText, model / f"text_encoder{suffix}" / CONFIG))
        length = clips[-1].max_position_embeddings
        path = model / f"text_encoder{suffix}" / CONFIG
        agreement.equal(path, "max_position_embeddings", length, clips[0].max_position_embeddings, "as text_encoder")
        tokenizer = model / f"tokenizer{suffix}" / "tokenizer_config.json"
        if tokenizer.is_file():
            stated = read(CLIPTokenizerFile, tokenizer).model_max_length
            why = f"max_position_embeddings of text_encoder{suffix}: the stock pipeline cuts prompts there"
            agreement.equal(tokenizer, "model_max_length", length if stated is None else stated, length, why)
    agreement.done()
    return clips
