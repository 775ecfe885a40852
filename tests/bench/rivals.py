"""The other queues that this machine can have: installed once a run; one that cannot be is reported."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tests.bench.peers import PEERS, NotHad, Peer
from tests.bench.stage import say


@dataclass(frozen=True, slots=True)
class Installed:
    """A peer that can be measured."""

    peer: Peer
    version: str


missing: dict[str, str] = {}
"""Peers that could not be installed, and why: told at the end of the run, which then fails."""


async def installed() -> dict[str, Installed]:
    """The peers, by name."""
    found: dict[str, Installed] = {}
    for peer in PEERS:
        try:
            found[peer.name] = Installed(peer, await asyncio.to_thread(peer.install))
        except NotHad as error:
            missing[peer.name] = str(error)
            say(f"NOT MEASURED: {peer.name}: {error}")
    return found
