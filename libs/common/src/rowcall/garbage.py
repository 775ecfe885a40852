"""The garbage collector of a service's process, told what it need not look at. Called by the services when they are ready."""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 10_000
"""New objects between two looks at the youngest, instead of 700."""


def spare_collections() -> None:
    """Has the garbage collector leave alone what is there for good, and come when a few hundred calls are worth it.

    Modules, descriptors and handlers are some hundred thousand objects: to look through them holds everything up for tens of
    milliseconds. What a call or a job leaves behind goes by reference counting; of the little that is in cycles (tracebacks
    of refused calls and failed handlers, mostly) more waits meanwhile.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)


def release() -> None:
    """Has the garbage collector look at everything once: something large that was there for good is not any more.

    It holds everything up for some tens of milliseconds: for what operators do, never for calls.
    """
    frozen = gc.get_freeze_count() > 0
    gc.unfreeze()
    gc.collect()
    if frozen:
        gc.freeze()
