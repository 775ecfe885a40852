"""What the faults happen to: gateways and workers as processes, each behind a proxy of its own, on a Postgres of the
test's own. Services log in as the roles they are meant for."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from tests.chaos import effects, handlers
from tests.fix_cluster import Cluster
from tests.fix_pooler import PASSWORD, make_logins
from tests.fix_services import ServiceProcess, Services
from tests.support.places import ROOT
from tests.support.ports import free_port
from tests.support.proxy import Proxy, address_of

S = TypeVar("S", bound="Seat")

LOGINS: Final = {"rowcall-gateway": "test_gateway", "rowcall-worker": "test_worker"}
"""The login of each program, in the role of its service."""

_IDENTITIES: Final = "select count(*) from rowcall.worker where name like %s and dead_at is null"


class Seat:
    """The place of one service: its process may die and be replaced, its settings and its proxy stay."""

    def __init__(
        self, services: Services, program: str, proxy: Proxy, arguments: Sequence[str], variables: dict[str, str]
    ) -> None:
        self.proxy = proxy
        self.processes: list[ServiceProcess] = []
        """Every process that was started here; the last one may be running."""
        self.woken: list[tuple[ServiceProcess, float]] = []
        """Each time a stopped process went on: which one, and when by this machine's clock (seconds)."""
        self._services = services
        self._program = program
        self._arguments = arguments
        self._variables = variables

    @property
    def process(self) -> ServiceProcess:
        """The process as last started."""
        return self.processes[-1]

    @property
    def arguments(self) -> Sequence[str]:
        """For the next process."""
        return self._arguments

    def start(self) -> None:
        """Starts a process; returns without waiting for it."""
        self.processes.append(self._services.start(self._program, *self.arguments, **self._variables))

    def freeze(self) -> None:
        """Stops the process where it is, as a debugger or a hypervisor does."""
        self.process.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Lets a stopped process go on."""
        self.woken.append((self.process, time.time()))
        self.process.process.send_signal(signal.SIGCONT)


class GatewaySeat(Seat):
    """The place of a gateway, which keeps its address."""

    @property
    def address(self) -> str:
        """Host and port; once it has been ready."""
        return self.process.heard.removeprefix("on ")

    @property
    def arguments(self) -> Sequence[str]:
        """For the next process."""
        # Nobody else takes it while one that was killed is replaced.
        return ("--listen", self.address if self.processes else f"127.0.0.1:{free_port()}")


@dataclass(frozen=True, slots=True)
class Stage:
    """The system under test."""

    cluster: Cluster
    """Its databases."""
    gateways: Sequence[GatewaySeat]
    """Where gateways run; not yet started."""
    workers: Sequence[Seat]
    """Where workers run; not yet started."""
    folder: Path
    """For what the run writes."""

    def alive(self, seat: Seat) -> int:
        """Under how many identities, on all shards, the worker of a seat is alive, as the shards see it."""
        found = 0
        for dsn in self.cluster.shards.values():
            with psycopg.connect(dsn) as connection:
                row = connection.execute(_IDENTITIES, [f"%-{seat.process.process.pid}-%"]).fetchone()
                assert row is not None
                found += row[0]
        return found

    def now(self) -> datetime:
        """The time by the databases' clock."""
        with psycopg.connect(self.cluster.catalogue_dsn) as connection:
            row = connection.execute("select clock_timestamp()").fetchone()
            assert row is not None
            found: datetime = row[0]
            return found

    def live_jobs(self) -> int:
        """How many jobs are not finished."""
        found = 0
        for dsn in self.cluster.shards.values():
            with psycopg.connect(dsn) as connection:
                row = connection.execute("select count(*) from rowcall.job").fetchone()
                assert row is not None
                found += row[0]
        return found


@contextmanager
def staged(
    cluster: Cluster,
    folder: Path,
    *,
    gateways: int = 1,
    workers: int,
    arguments: Sequence[str] = (),
    gate: Path | None = None,
) -> Iterator[Stage]:
    """Sets a stage; what still runs at the end is killed.

    Args:
        cluster: Fresh databases.
        folder: An empty one.
        gateways: How many seats for gateways.
        workers: How many seats for workers.
        arguments: For every worker.
        gate: The file that Await's handlers wait for.
    """
    effects.prepare(cluster.shards.values())
    make_logins(cluster.catalogue_dsn)
    (folder / "starts").mkdir()
    told = {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "ROWCALL_LOG_LEVEL": "warning",
        handlers.STARTS: str(folder / "starts"),
        **({handlers.GATE: str(gate)} if gate is not None else {}),
    }
    with ExitStack() as stack:
        services = Services(cluster, stack)

        def seat(kind: type[S], program: str, *arguments: str) -> S:
            proxy = stack.enter_context(Proxy(*address_of(cluster.service_catalogue)))

            def through(dsn: str) -> str:
                return make_conninfo(proxy.through(dsn), user=LOGINS[program], password=PASSWORD)

            variables = {
                **told,
                "ROWCALL_CATALOGUE": through(cluster.service_catalogue),
                "ROWCALL_SHARDS": json.dumps({shard: through(dsn) for shard, dsn in cluster.service_shards.items()}),
            }
            return kind(services, program, proxy, arguments, variables)

        yield Stage(
            cluster,
            [seat(GatewaySeat, "rowcall-gateway") for _ in range(gateways)],
            [
                seat(Seat, "rowcall-worker", "--servicer", "tests.chaos.handlers:register", *arguments)
                for _ in range(workers)
            ],
            folder,
        )
