"""The whole DAG in one process."""

DRIVER = """
import importlib
from pathlib import Path
from diffalign.config.load import load
from diffalign.tracking import dag
from diffalign.training import loop, spec, start
def in_place(module, arguments, *rest):
    loop.run(spec.read(Path(arguments[0])), Path(arguments[0]).parent)
start.launch = in_place
params = load()
for name in dag.graph():
    stage, _, key = name.partition("@")
    importlib.import_module(f"stages.{stage}").run(params, *([key] if key else []))
"""
"""Runs the stages in the DAG's order in one process, trainings too: torch is imported once, not for each."""
