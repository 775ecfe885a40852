"""The other queues that this machine can have, installed once a run, and jobs that wait in them.

One that cannot be installed is reported.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import psycopg

from tests.bench.peers import PEERS, NotHad, NoToolchain, Peer
from tests.bench.stage import System, say


@dataclass(frozen=True, slots=True)
class Installed:
    """A peer that can be measured."""

    peer: Peer
    version: str

    async def empty(self, system: System) -> str:
        """A new database with its schema; its connection string."""
        dsn = await asyncio.to_thread(system.database, self.peer.name, fresh=True)
        await self.peer.prepare(dsn)
        return dsn

    async def filled(self, dsn: str, jobs: int) -> float:
        """Enqueues so many jobs in bulk, and has Postgres settle down, as behind ours; jobs a second. Raises NotCounted."""
        rate = jobs / await self.peer.fill(dsn, jobs)
        await asyncio.to_thread(_settle, dsn)
        return rate


left_out: dict[str, str] = {}
"""Peers whose toolchain this machine has not, and what that is: told at the end of the run."""

missing: dict[str, str] = {}
"""Peers that could not be installed, and why: told at the end of the run, which then fails."""


async def installed() -> dict[str, Installed]:
    """The peers, by name."""
    found: dict[str, Installed] = {}
    for peer in PEERS:
        try:
            found[peer.name] = Installed(peer, await asyncio.to_thread(peer.install))
        except NoToolchain as error:
            left_out[peer.name] = str(error)
            say(f"left out: {peer.name}: {error}")
        except NotHad as error:
            missing[peer.name] = str(error)
            say(f"NOT MEASURED: {peer.name}: {error}")
    return found


def _settle(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("vacuum analyze")
        connection.execute("checkpoint")
