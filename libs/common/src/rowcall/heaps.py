"""How many heaps glibc's malloc keeps for a process's threads. Called by the services that have a port, before they have threads."""

from __future__ import annotations

import ctypes
import os
from typing import Final

HEAPS: Final = 2
"""As many threads of a gateway's are in malloc at one moment: the one that has the interpreter lock, and one of gRPC's."""

_M_ARENA_MAX: Final = -8
"""malloc.h's; mallopt(3)."""


def share_heaps() -> None:
    """Has all threads share two heaps, and not eight a core.

    What a flood of calls took is free in the heap of the thread that read it, and of no use to the others: after floods of each
    kind a gateway with nine heaps held some 20 MB more than with two, of two cores; of more cores it has more threads.
    Whoever has set it by the environment (MALLOC_ARENA_MAX, GLIBC_TUNABLES) keeps that; where there is no glibc, nothing is done.
    """
    if "MALLOC_ARENA_MAX" in os.environ or "glibc.malloc.arena_max" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, HEAPS)
    except (OSError, AttributeError):
        return
