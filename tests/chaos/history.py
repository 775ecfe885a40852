"""The log of what was asked and answered: each call is written down before it is sent, and what came of it afterwards.

Written by `tests.chaos.load`, read by `tests.chaos.verdict`. Append-only, one JSON object a line, in the order of things.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias

Kind: TypeAlias = Literal["answer", "keyed", "once"]
"""How a call is made: repeated with its key until it is answered with a response, or acknowledged with a name; or sent a
single time without a key, whatever comes of it."""

Came: TypeAlias = Literal["response", "name", "unknown", "refused"]
"""What came of an attempt at a call: a response, an operation's name, an error that leaves open whether there is a job, or
an error that rules it out."""


@dataclass(frozen=True, slots=True)
class Invoked:
    """A call is about to be sent."""

    call: int
    """Its number: unique, and in the request and a label of the job."""
    kind: Kind
    """How it is made."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attempt at a call."""

    call: int
    """Its number."""
    came: Came
    """What came."""
    detail: str
    """The operation's name, the response's receipt, or the error's code, reason and message."""


class History:
    """The log of one run, being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", encoding="ascii")

    def write(self, entry: Invoked | Outcome) -> None:
        """Appends an entry; it has left this process when this returns."""
        self._file.write(json.dumps({"entry": type(entry).__name__, **asdict(entry)}) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read(path: Path) -> Iterator[Invoked | Outcome]:
    """Every entry, from the first."""
    with path.open(encoding="ascii") as lines:
        for line in lines:
            fields = json.loads(line)
            yield (Invoked if fields.pop("entry") == "Invoked" else Outcome)(**fields)
