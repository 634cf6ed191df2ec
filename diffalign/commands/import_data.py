"""import: comparisons of any kind as a source that ingest reads, and params.yaml changed to it."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv

from diffalign.commands import import_check, import_words
from diffalign.commands.import_source import Asked, opened
from diffalign.config.load import PARAMS, parse
from diffalign.core import files, publishing, yaml_edit, yaml_file
from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.data import closing
from diffalign.data.candidate_files import CandidateFiles
from diffalign.data.comparisons.table import Split
from diffalign.data.comparisons.writer import Reject
from diffalign.data.pickapic_file import LABELS
from diffalign.data.sources import pickapic
from diffalign.data.sources import source as sources
from diffalign.data.sources.source import Candidate, Source

if TYPE_CHECKING:
    from diffalign.config.params import Params

SHOWN = 10
"""Rows that are shown as they were understood."""
REJECTS = "rejected.csv"
DEMO = "assets/tiny-sd"


class Imported:
    """A source whose candidates are written to files, if given, as they pass by.

    `first` are its first rows, `split` tells whether a row had a split of its own; with `by_hash` none has.
    """

    def __init__(self, source: Source, by_hash: bool, to: CandidateFiles | None = None) -> None:
        self.source, self.by_hash, self.to = source, by_hash, to
        self.rows, self.simulated = source.rows, source.simulated
        self.reasons: Mapping[str, str] = pickapic.REASONS | dict(source.reasons)
        self.first: list[Candidate | Reject] = []
        self.split = False

    def claims(self) -> Iterator[tuple[str, Split]]:
        """Yields the source's claims."""
        return iter(()) if self.by_hash else self.source.claims()

    def about(self) -> dict[str, Any]:
        """Returns what the source says of itself."""
        return self.source.about()

    def records(self) -> Iterator[list[Candidate | Reject]]:
        """Yields the source's rows; an answer that Pick-a-Pic's columns don't know is a reject."""
        for batch in self.source.records():
            found = [known(record, self.by_hash) for record in batch]
            for record in found:
                if isinstance(record, Candidate):
                    self.split |= record.split is not None
                    if self.to:
                        self.to.add(record)
            self.first += found[: SHOWN - len(self.first)]
            yield found


def known(record: Candidate | Reject, by_hash: bool) -> Candidate | Reject:
    """Returns a record, without its split if asked; a reject for an answer that is no preference, such as both_bad."""
    if isinstance(record, Reject):
        return record
    if record.share is not None or record.answer in LABELS:
        return replace(record, split=None) if by_hash and record.split else record
    return Reject(record.file, record.row, "no_label", f"the answer is {record.answer}")


def run(params: "Params", where: str, to: Path, asked: Asked, title: str | None, keep_params: bool) -> str:
    """Writes the data at a path, or on the hub, into a new folder and names it in params.yaml; returns what is there.

    Small data without splits of its own gets larger shares of held-out prompts. Raises UserError where `to` has
    something, where the data leaves a question, and where more rows are lost than data.max_rejects allows; nothing is
    there then.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"import: {to} is there already: expected a new folder. Remove it, or name another.")
    kind, path, source = opened(where, asked)
    about = source.about()
    sys.stderr.write(f"import: reads {path} as {kind}\n{import_words.understood(about)}")
    by_hash = only_train(about)
    if by_hash:
        sys.stderr.write("import: all files are named train: rows are split by their prompts' hash instead\n")
    note = (about.get("notes") or ["simulated raters"])[0] if source.simulated else ""
    with publishing.replacing(to) as new:
        with CandidateFiles(new, to.name, note, about.get("families", ())) as out:
            imported = Imported(source, by_hash, out)
            checked = import_check.check(imported, params.data)
        closing.check_rejects(checked.ledger, params.data.max_rejects, sources.intended(source))
        if checked.rejects.num_rows:
            with files.writing(new / REJECTS) as file:
                pa.csv.write_csv(checked.rejects, file)
    shares = {} if imported.split or keep_params else import_check.larger_shares(checked, params.data)
    if shares:
        checked = import_check.check(Imported(source, by_hash), params.data.model_copy(update=shares))
    training = params.training
    lines = [
        import_words.table(imported.first),
        "",
        f"{to}: {closing.sentence(checked.ledger, training.steps, training.batch_size)}",
    ]
    if checked.rejects.num_rows:
        lines.append(f"Rejected rows, each with its reason: {to / REJECTS}")
    if not keep_params:
        lines.append(changed_params(params, to, title, shares))
    return "\n".join([*lines, next_step(params)])


def only_train(about: Mapping[str, Any]) -> bool:
    """Tells whether every file of a source is of the train split by its name, so that nothing is held out."""
    known = [file["split"] for file in about.get("file_splits", ())]
    return bool(known) and set(known) == {"train"} and "split" not in about.get("columns", {})


def changed_params(params: "Params", to: Path, title: str | None, shares: Mapping[str, float]) -> str:
    """Names the data in params.yaml, whose comments and layout stay; returns what was changed."""
    title = title or to.name.replace("_", " ").replace("-", " ")
    values: dict[str, Any] = {"data.source": "pickapic", "data.path": str(to)}
    values |= {f"data.{name}": share for name, share in shares.items()}
    if params.data.settings != {"splits": {}}:
        values["data.settings"] = {"splits": {}}
    values["report.title"] = title[:1].upper() + title[1:]
    text = yaml_edit.changed(PARAMS.read_text("utf-8"), values)
    parse(yaml_file.parse(text, str(PARAMS)), str(PARAMS))
    files.write_text(PARAMS, text)
    told = ", ".join(f"{name}: {yaml_edit.one_line(value)}" for name, value in values.items() if name != "data.source")
    return f"{PARAMS} has {told}{f' (for {import_check.LEAST} held-out prompts each)' if shares else ''}"


def next_step(params: "Params") -> str:
    """Returns what to do next, and how to leave the demo's params."""
    toy = " (these params train the demo's toy model; for a real one import with --preset sd15-lora)"
    return f"Next: {COMMAND} plan, then dvc repro{toy if params.model.path == DEMO else ''}"
