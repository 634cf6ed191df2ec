"""Keeps Python's garbage collector from walking, for seconds, over what torch and diffusers define."""

import atexit
import gc

USUAL = gc.get_threshold()
LOADING = 50_000
"""Objects between two walks while libraries are imported: what they define stays until the process ends."""


def rare_while_loading() -> None:
    """Makes walks rare until `usual` is called, and leaves out the last one, when the process ends.

    By CPU time, importing diffusers' and transformers' networks and ending takes 4.4 s, 6.6 s without this.
    """
    gc.set_threshold(LOADING)
    atexit.register(gc.freeze)


def usual() -> None:
    """Makes walks as frequent as Python has them, so that no cycle keeps a tensor for long."""
    gc.set_threshold(*USUAL)
