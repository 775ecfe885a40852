"""What becomes of a program when one of its processes has ended by itself. Asked by `supervisor`."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass
from typing import Final

WRONG_SETTINGS: Final = 2
"""The exit code of a program whose settings are wrong: starting it again would not mend them."""

SHORTEST: Final = 0.1
LONGEST: Final = 10.0
"""Seconds before a process is started again: doubled from the one to the other while it does not live."""


@dataclass(frozen=True, slots=True)
class End:
    """How a process ended that nobody had told to."""

    code: int
    """Its exit code; less than 0: minus the number of a signal."""
    served: float | None
    """For how many seconds it had served; None: it never was ready."""
    first: bool
    """Whether it was the first in its place."""

    @property
    def exit_code(self) -> int:
        """As shells have it: 128 + the number of a signal."""
        return 128 - self.code if self.code < 0 else self.code

    @property
    def signal(self) -> str | None:
        """The name of the signal that ended it, or its number where it has none (a real-time signal); None: none did."""
        if self.code >= 0:
            return None
        return next((each.name for each in signal.Signals if each == -self.code), str(-self.code))

    @property
    def is_for_all(self) -> bool:
        """Whether the program ends with it. One that served and died is a crash, whatever its code: the others go on,
        and another takes its place. One that cannot start is no crash."""
        return self.served is None and (self.first or self.code == WRONG_SETTINGS)


class Pauses:
    """The pauses before the processes of one place are started again."""

    def __init__(self, chance: random.Random | None = None) -> None:
        """`chance`: for jitter; None: its own."""
        self._chance = random.Random() if chance is None else chance  # noqa: S311  nobody gains by guessing it
        self._next = SHORTEST

    def after(self, served: float | None) -> float:
        """Seconds to wait, after a process that served for so many seconds; None: not at all.

        Between half of the pause and the whole: processes that died of the same thing do not come back together.
        """
        if served is not None and served > LONGEST:
            self._next = SHORTEST
        pause, self._next = self._next, min(2 * self._next, LONGEST)
        return pause * self._chance.uniform(0.5, 1)
