"""The start of a program, while its modules are imported: half of what that takes can be spared. Called by the entry of each.

It imports next to nothing itself.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

UNUSED_BY_SERVICES = ("google.protobuf.internal.python_message",)
"""What others import and a service never uses: messages in Python (and through it their text format), beside those in C."""


@contextmanager
def importing(*, without: tuple[str, ...] = (), later: tuple[str, ...] = ()) -> Iterator[None]:
    """For the length of the block no garbage is collected: modules, classes and functions are there for good.

    What there is when it ends is never looked at again by the collector. The little that is garbage among it stays (of a worker's
    95,000 objects 900), and costs less than to look through the rest.

    Args:
        without: Packages that what is imported takes along where they are installed, and does without where they are not.
        later: Modules that what is imported takes along as a whole (`from package import module`), to be imported only when
            something is asked of them.
    """
    hidden = [name for name in without if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own word for a module that cannot be had
    stand_ins = {name: _Later(name) for name in later if name not in sys.modules}
    sys.modules.update(stand_ins)
    gc.disable()
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        for stand_in in stand_ins.values():
            stand_in.step_aside()
        gc.freeze()
        gc.enable()


class _Later(ModuleType):
    """A module that is imported when something is asked of it. Whoever imports it after the block gets the module itself."""

    def step_aside(self) -> None:
        """Lets the module be imported under its name."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, name: str) -> object:
        self.step_aside()
        __import__(self.__name__)
        value: object = getattr(sys.modules[self.__name__], name)
        return value
