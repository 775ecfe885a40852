"""The system the demo calls: embedded Postgres here, gateway and worker as processes of their own. Called by `run`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from rowcall.embedded import Postgres
from rowcall_standalone.databases import Databases, Reached, prepare, start_postgres
from rowcall_standalone.demo import example, processes
from rowcall_standalone.demo.processes import Service
from rowcall_standalone.demo.report import Report
from rowcall_standalone.errors import StandaloneError
from rowcall_standalone.serving import CHANNEL_OPTIONS

SHARDS = 2
"""As many as it takes to be more than one."""

_T = TypeVar("_T")

_START_SECONDS = 60.0
_LAST_WORDS_SECONDS = 0.5
_GRACE = "5s"
"""How long gateway and worker take to stop at most: nobody's work is cut off when the demo is interrupted."""
_READY = "rowcall-gateway: ready on "
_MAX_MESSAGE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class System:
    """A running system."""

    databases: Databases
    gateway: Service
    worker: Service
    address: str
    """Where the gateway listens."""
    channel: grpc.aio.Channel
    """To the gateway."""

    async def while_alive(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do something that needs both processes.

        Raises StandaloneError when one of them ends meanwhile, with what it said last.
        """
        task = asyncio.ensure_future(work)
        ends = [asyncio.ensure_future(service.died()) for service in (self.gateway, self.worker)]
        try:
            await asyncio.wait([task, *ends], return_when=asyncio.FIRST_COMPLETED)
            if task.done() and task.exception() is not None:
                # A call that failed because its gateway died is heard of before the death.
                await asyncio.wait(ends, timeout=_LAST_WORDS_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                if end.done():
                    raise end.result()
            return await task
        finally:
            for one in (task, *ends):
                one.cancel()
            await asyncio.wait([task, *ends])


@asynccontextmanager
async def running(directory: Path, image: Path, report: Report, *, binaries: Path | None) -> AsyncIterator[System]:
    """Start the system on a directory, and stop all of it at the end.

    Raises StandaloneError when a part does not come up.
    """
    async with AsyncExitStack() as stack:
        started = time.perf_counter()
        postgres: Postgres = await asyncio.to_thread(start_postgres, directory, binaries=binaries)
        stack.push_async_callback(asyncio.to_thread, postgres.stop)
        seconds = time.perf_counter() - started
        report.started("Postgres", f"embedded, in {postgres.data_dir}, port {postgres.port}", seconds)

        started = time.perf_counter()
        databases = await prepare(postgres, SHARDS, report.note)
        documents = await asyncio.to_thread(databases.create, example.DATABASE)
        report.started(
            "schema", f"a catalogue and {SHARDS} shards, as rowcall migrate makes them", time.perf_counter() - started
        )

        started = time.perf_counter()
        gateway = await processes.start(
            "rowcall-gateway",
            *("--listen", "127.0.0.1:0", "--identity", "insecure-dev", "--image", str(image)),
            settings=_settings(databases.gateway),
            log=directory / "gateway.log",
        )
        services = [gateway]
        stack.push_async_callback(_stop, services)
        worker = await processes.start(
            "rowcall-worker",
            *("--servicer", example.SERVICER),
            settings={
                **_settings(databases.worker),
                example.DSN_VARIABLE: documents,
                "ROWCALL_PRICES": str(example.prices()),
            },
            log=directory / "worker.log",
        )
        services.append(worker)
        try:
            async with asyncio.timeout(_START_SECONDS):
                address = (await gateway.ready()).removeprefix(_READY)
                report.started(
                    "gateway", f"process {gateway.pid} on {address}, log {gateway.log}", time.perf_counter() - started
                )
                await worker.ready()
                report.started("worker", f"process {worker.pid}, log {worker.log}", time.perf_counter() - started)
        except TimeoutError as error:
            raise StandaloneError(
                f"Gateway and worker were not ready within {_START_SECONDS:g} s. Their logs are {gateway.log} and {worker.log}."
            ) from error
        options = (*CHANNEL_OPTIONS, ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
        yield System(databases, gateway, worker, address, channel)


def _settings(reached: Reached) -> dict[str, str]:
    """A service's environment."""
    return {
        "ROWCALL_CATALOGUE": reached.catalogue,
        "ROWCALL_SHARDS": json.dumps(dict(reached.shards)),
        "ROWCALL_LOG_FORMAT": "json",
        "ROWCALL_GRACE": _GRACE,
    }


async def _stop(services: Sequence[Service]) -> None:
    await asyncio.gather(*(service.stop() for service in services))
