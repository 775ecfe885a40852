"""What every benchmark stands on: databases, services, rounds in turn, rows counted, progress told."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil
import psycopg
from psycopg import sql

from tests.bench.layers import Layer
from tests.bench.load import Load
from tests.bench.tokens import callers
from tests.bench.wire import PLACE, TURNED
from tests.fix_cluster import Cluster, durable_cluster
from tests.fix_services import ServiceProcess, Services

TENANT: Final = "bench"

Measure = Callable[[], Awaitable[float]]


class NotCounted(Exception):
    """Rows in, jobs done and answers are not the same number: what was measured is not what it is called."""


def say(text: str) -> None:
    """Shows what is under way."""
    print(f"  {time.strftime('%H:%M:%S')}  {text}", flush=True)


@dataclass(frozen=True, slots=True)
class Stage:
    """How this run measures."""

    rounds: int
    """How often each is measured, in turn."""
    seconds: float
    """How long a load lasts."""
    layers: tuple[Layer, ...] = ()
    """What is switched on beyond the defaults."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment of gateways and workers, beyond the defaults."""

    @property
    def environment(self) -> dict[str, str]:
        """What services are started with."""
        return {
            # What is logged is made and written, and then nobody reads it.
            "ROWCALL_LOG_FORMAT": "json",
            **{name: value for layer in self.layers for name, value in layer.environment.items()},
            **self.settings,
        }

    @property
    def told(self) -> dict[str, str]:
        """What belongs to every figure of this run."""
        return {
            "rounds": str(self.rounds),
            **({"layers": ", ".join(layer.name for layer in self.layers)} if self.layers else {}),
            **self.settings,
        }

    async def in_turn(self, **measures: Measure) -> dict[str, list[float]]:
        """Measures each in turn, so many rounds; the values of each by its name."""
        found: dict[str, list[float]] = {name: [] for name in measures}
        for number in range(self.rounds):
            for name, measure in measures.items():
                value = await measure()
                found[name].append(value)
                say(f"round {number + 1} of {self.rounds}: {name}: {value:,.4g}")
        return found

    @contextmanager
    def system(self) -> Iterator[System]:
        """Databases of one benchmark, durable, on disk, and services on them."""
        with ExitStack() as stack:
            cluster = stack.enter_context(durable_cluster())
            if any(layer.bounds for layer in self.layers):
                _bound(cluster)
            asks = any(layer.asks for layer in self.layers)
            count = max((layer.tokens for layer in self.layers), default=0)
            if not count:
                yield System(cluster, Services(cluster, stack), self.environment, asks=asks)
                return
            known = stack.enter_context(callers(TENANT, count))
            environment = {**self.environment, **known.environment}
            yield System(cluster, Services(cluster, stack), environment, tokens=known.tokens, asks=asks)


_ASKS: Final = ("traceparent", f"00-{PLACE.decode()}{TURNED.decode()}-00f067aa0ba902b7-01")
"""Each call in a trace of its own; as many of them as of all others are recorded by their ids."""

_BOUNDS: Final = """
select rowcall_catalogue.set_bound(
  b.tenant, b.queue, b.method, 1000000, 1000000, 1000000,
  case when b.method = '' then 1000000000 end, case when b.tenant = '' and b.method = '' then interval '1 year' end,
  'bench', null
)
from (values
  (%(tenant)s, '', ''), ('', 'probe', ''), (%(tenant)s, 'probe', ''),
  ('', '', %(method)s), (%(tenant)s, '', %(method)s), ('', 'probe', %(method)s)
) as b (tenant, queue, method)
"""


def _bound(cluster: Cluster) -> None:
    """Bounds all that is called, so high that nothing is refused."""
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        for name in ("Run", "Echo", "Await"):
            connection.execute(_BOUNDS, {"tenant": TENANT, "method": f"rowcall.probe.v1.ProbeService/{name}"})


class System:
    """Databases, and the services that a benchmark starts on them."""

    def __init__(
        self,
        cluster: Cluster,
        services: Services,
        environment: dict[str, str],
        *,
        tokens: Path | None = None,
        asks: bool = False,
    ) -> None:
        self.cluster = cluster
        self.tokens = tokens
        """What its callers send, a token a line; None: they are believed."""
        self._services = services
        self._environment = environment
        self._asks = asks

    def asked(self, load: Load) -> Load:
        """A load as this system's callers send it: with their traces, where they ask for them to be recorded."""
        return replace(load, metadata=(*load.metadata, _ASKS)) if self._asks else load

    @property
    def dsn(self) -> str:
        """The shard's connection string, as superuser."""
        return self.cluster.shards["a"]

    def gateway(self, *arguments: str, **variables: str) -> tuple[ServiceProcess, str]:
        """Starts a gateway; with its address, when it is ready."""
        service = self._services.gateway("127.0.0.1:0", *arguments, **{**self._environment, **variables})
        return service, service.address()

    def worker(self, *arguments: str, **variables: str) -> ServiceProcess:
        """Starts a worker; returns when it is ready."""
        service = self._services.worker(*arguments, **{**self._environment, **variables})
        service.ready()
        return service

    def database(self, name: str, *, fresh: bool = False) -> str:
        """A database of this name on the same server, made where it is not there, or anew; its connection string."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            if fresh:
                connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
            if connection.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        # As a plain URI: other queues' drivers read no other form, nor what libpq alone knows.
        return urlsplit(self.dsn)._replace(path=f"/{name}", query="").geturl()

    def postmaster(self) -> int:
        """The process id of the server's first process, whose children are all the others."""
        # Asked while the connection is open: the backend ends with it.
        with psycopg.connect(self.dsn) as connection:
            return psutil.Process(connection.info.backend_pid).ppid()

    def value(self, query: str) -> float:
        """What a query says: one number."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            row = connection.execute(query.encode()).fetchone()
        return float(row[0]) if row is not None and row[0] is not None else 0.0

    def do(self, *statements: str) -> None:
        """Runs statements, each by itself."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for each in statements:
                connection.execute(each.encode())

    def waiting(self) -> int:
        """Rows of jobs that are not finished."""
        return int(self.value("select count(*) from rowcall.job"))

    def finished(self) -> int:
        """Rows of jobs that have succeeded."""
        return int(self.value("select count(*) from rowcall.job_history where state = 11"))

    def fresh(self) -> None:
        """Leaves no job, key or history of what was measured before, and nothing for Postgres to catch up with."""
        self.do(
            "truncate rowcall.job, rowcall.job_key, rowcall.job_history",
            "vacuum analyze",
            "checkpoint",
        )


def count(what: str, expected: int, found: int) -> None:
    """Raises NotCounted if two numbers differ that must be one."""
    if expected != found:
        raise NotCounted(f"{what}: {expected:,} expected, {found:,} found")


class Used:
    """The processor time of processes and their children between two looks. Linux; elsewhere nothing is told."""

    def __init__(self, **pids: int) -> None:
        self._pids = pids
        self._before = {name: _cpu(pid) for name, pid in pids.items()}
        self._began = time.monotonic()

    def told(self) -> dict[str, str]:
        """Of each, what part of a processor it has used, such as {"gateway": "0.93 of a core"}."""
        elapsed = time.monotonic() - self._began
        return {
            name: f"{(_cpu(pid) - self._before[name]) / elapsed:.2f} of a core"
            for name, pid in self._pids.items()
            if Path("/proc").exists()
        }


def _cpu(pid: int) -> float:
    """Seconds of processor time of a process and everything below it."""
    total = 0.0
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # utime, stime, and those of children that have ended (proc(5)).
        total = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return total
    return total + sum(_cpu(int(child)) for child in children)


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)
