"""The start of a program, while its modules are imported: half of what that takes can be spared. Called by the entry of each.

It imports next to nothing itself.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing(*, without: tuple[str, ...] = ()) -> Iterator[None]:
    """For the length of the block no garbage is collected: modules, classes and functions are there for good.

    Args:
        without: Packages that what is imported takes along where they are installed, and does without where they are not.
    """
    hidden = [name for name in without if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own word for a module that cannot be had
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        for name in hidden:
            del sys.modules[name]
