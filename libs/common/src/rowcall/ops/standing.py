"""Whether a service is ready, and why not: what gateway and worker tell the operations port of themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from rowcall.queue.depths import KnownDepths

STARTING: Final = "starting"
DRAINING: Final = "draining"
NO_SHARD: Final = "no shard can be served"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a service stands."""

    refusal: str
    """Why nothing is to be sent to it; empty: it is ready. One shard that is away is no reason while there is another."""
    checks: Mapping[str, str]
    """What was looked at, by name ("shard a", "catalogue"), each with what is wrong with it; empty: nothing is."""


class Service(Protocol):
    """A gateway, or a worker."""

    @property
    def service(self) -> str:
        """What it is: "gateway", "worker"."""

    def standing(self) -> Standing:
        """How it stands now, as far as it knows. Asks nobody."""

    @property
    def depths(self) -> Sequence[KnownDepths]:
        """What its shards stand at."""
