"""What a handler says about one of its runs: in the response, in the effect it writes, and in the note of its start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Receipt:
    """One run of a handler."""

    call: int
    """The number of the call, from the request."""
    run: str
    """A random name of the run."""
    lease: int
    """The job's lease number that it ran under."""

    def encode(self) -> bytes:
        """As bytes, without a line's end."""
        return f"{self.call} {self.run} {self.lease}".encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """What `encode` made."""
        call, run, lease = data.decode().split(" ")
        return cls(int(call), run, int(lease))
