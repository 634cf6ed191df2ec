"""The schema of metrics/ingest.json as far as the report knows it: counts, nested as ingest likes."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from typing_extensions import TypeAliasType

from diffalign.core import records
from diffalign.core.records import Record

FILE = Path("metrics/ingest.json")
NotNegative = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0)]
Count = TypeAliasType("Count", "bool | NotNegative | str | list[Count] | dict[str, Count] | None")


class Ingested(Record):
    """The counts of ingest."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Count]
    version: Literal[1] = Field(alias="schema")
    rows: Annotated[int, Field(ge=0)]
    comparisons: Annotated[int, Field(ge=0)]
    rejects: dict[str, Annotated[int, Field(ge=0)]]
    simulated: bool
    """True where the raters are programs; the comparisons say so of themselves."""
    notes: tuple[str, ...] = ()
    """How they answered, as the files say it."""
    families: tuple[str, ...] = ()
    """Tags of the rewards that answered, and their names: judges that share one are in-family."""


def read_ingested(path: Path = FILE) -> Ingested:
    """Reads the counts; UserError if the file is missing or damaged."""
    return records.read(path, Ingested, "ingest")
