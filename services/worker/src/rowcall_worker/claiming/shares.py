"""Which queues a worker claims from, how its free slots are shared among them, and how many each may have at once.

Written NAME[=WEIGHT[:SLOTS]] in the settings, parsed by `rowcall_worker.settings`, used by the claimers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from rowcall_worker.running.slots import Cap

# As rowcall.catalogue.policy has them, and the default queue's.
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_MIN_WEIGHT: Final = 0.01
_MAX_WEIGHT: Final = 100.0


@dataclass(frozen=True, slots=True)
class QueueChoice:
    """A queue that a worker claims from."""

    name: str
    """The queue's."""
    weight: float = 1.0
    """Its share of free slots beside other queues that have work."""
    slots: int | None = None
    """The most of its jobs at once in this process; None: as many as there are slots."""

    @classmethod
    def parse(cls, text: str) -> QueueChoice:
        """Reads NAME[=WEIGHT[:SLOTS]].

        Raises:
            ValueError: It is not written so; the message says what is wrong with which part.
        """
        name, equals, rest = text.partition("=")
        weight_text, colon, slots_text = rest.partition(":")
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"has {text!r}, which does not begin with a queue's name (lower-case letters, digits, - and _); write "
                "name, name=weight or name=weight:slots"
            )
        weight = 1.0
        if equals:
            try:
                weight = float(weight_text)
            except ValueError:
                weight = math.nan
            if not _MIN_WEIGHT <= weight <= _MAX_WEIGHT:
                raise ValueError(
                    f"gives {name!r} the weight {weight_text!r}; a weight is a number from {_MIN_WEIGHT:g} to "
                    f"{_MAX_WEIGHT:g}"
                )
        if not colon:
            return cls(name, weight)
        if not (slots_text.isascii() and slots_text.isdigit() and int(slots_text) > 0):
            raise ValueError(f"gives {name!r} {slots_text!r} slots; it is a whole number from 1 up")
        return cls(name, weight, int(slots_text))


class Share:
    """What one queue may have of this process."""

    def __init__(self, weight: float = 1.0, cap: Cap | None = None) -> None:
        self.weight = weight
        """Its share of free slots beside other queues that have work."""
        self.cap = cap
        """Bounds how many of its jobs run at once; None: nothing does."""

    @property
    def most(self) -> int | None:
        """How many of its jobs may run at once; None: nothing bounds them."""
        return None if self.cap is None else self.cap.capacity

    @property
    def room(self) -> float:
        """How many more of its jobs may run."""
        return math.inf if self.cap is None else self.cap.free

    def take(self, count: int) -> None:
        """So many more run."""
        if self.cap is not None:
            self.cap.take(count)

    def give(self, count: int) -> None:
        """So many fewer do."""
        if self.cap is not None:
            self.cap.give(count)


class Shares:
    """The shares of all queues, the same for all shards of a process."""

    def __init__(self, choices: Iterable[QueueChoice]) -> None:
        """`choices`: the queues to claim from; none: from all, with equal shares."""
        self._chosen = {
            choice.name: Share(choice.weight, None if choice.slots is None else Cap(choice.slots)) for choice in choices
        }
        self._any = Share()

    def of(self, queue: str) -> Share | None:
        """A queue's share; None: it is not claimed from."""
        return self._chosen.get(queue) if self._chosen else self._any

    @property
    def names(self) -> tuple[str, ...]:
        """The queues that were chosen, sorted; none: all."""
        return tuple(sorted(self._chosen))
