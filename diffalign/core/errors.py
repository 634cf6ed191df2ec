"""The errors that are the user's to mend: one message, no traceback, exit code 2; and an end on request, code 75."""

import os

STOPPED = os.EX_TEMPFAIL
"""The exit code, 75, of what ended on request with its work saved: the same command goes on from there."""


class UserError(Exception):
    """Input, parameters or the environment are wrong: says what was expected, what was found, what to do.

    `pipeline.py` prints the message and exits with 2; Prefect doesn't retry it.
    """


class Stopped(Exception):
    """A SIGTERM or Ctrl-C was obeyed and what was done is saved. `pipeline.py` prints the message and exits with 75."""
