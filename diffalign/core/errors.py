"""Errors that the user can mend (one message, no traceback, exit code 2), outages and ends on request (75)."""

import os

STOPPED = os.EX_TEMPFAIL
"""The exit code, 75, of a command that ended for now: the same command goes on from what was saved."""


class UserError(Exception):
    """Says that input, params or the environment are wrong: what was expected, what was found, what to do.

    `pipeline.py` prints the message and exits with 2; Prefect doesn't retry it.
    """


class Outage(UserError):
    """Says that a service doesn't answer now, though nothing of ours may be wrong: worth another try, later.

    `pipeline.py` prints the message and exits with 75, so that Prefect tries again from what was saved.
    """


class Stopped(Exception):
    """Says that a SIGTERM or Ctrl-C was obeyed, and what is saved. `pipeline.py` prints it and exits with 75."""
