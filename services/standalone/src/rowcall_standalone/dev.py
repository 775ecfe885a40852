"""`rowcall dev`: gateway, workers and an embedded Postgres in one process and one event loop. Called by `commands`."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, NoReturn

import grpc

from rowcall import logs
from rowcall.catalogue.images import ImageError
from rowcall.embedded import Postgres
from rowcall.errors import RowcallError
from rowcall.settings import SettingsError
from rowcall_gateway.edge.address import Address
from rowcall_gateway.edge.identity import IdentityMode
from rowcall_gateway.server import Gateway
from rowcall_gateway.settings import GatewaySettings
from rowcall_standalone.databases import Databases, prepare, start_postgres
from rowcall_standalone.errors import StandaloneError
from rowcall_standalone.listen import refuse_taken
from rowcall_standalone.serving import CHANNEL_OPTIONS, wait_until_serving
from rowcall_standalone.signals import Interrupted, Signals
from rowcall_worker import RegistrationError, Worker, WorkerSettings

GRACE = timedelta(seconds=10)
"""How long a drain lets calls and jobs finish: a developer waits at the terminal."""

_LEAST_GRACE = timedelta(seconds=1)
"""What of it the workers have at least, when the gateway has drained."""

_READY_WITHIN = timedelta(seconds=30)
_LOOK_SECONDS = 1.0
_LOOK = "table rowcall.jobs"  # shown, for people to run


@dataclass(frozen=True, slots=True)
class DevOptions:
    """What `rowcall dev` was asked for."""

    listen: Address
    """A loopback one."""
    data_dir: Path
    """Kept over restarts."""
    shards: int | None
    """How many there shall be; None: as many as there are, one at first."""
    images: tuple[Path, ...]
    """Descriptor images of job types."""
    servicers: tuple[str, ...]
    """module:function, each registering servicers with the worker."""
    databases: tuple[tuple[str, str], ...]
    """Environment variables, and the databases on the embedded server whose connection strings they get."""
    workers: int
    """How many."""
    allow_faults: bool
    """Whether ProbeService may end the process."""
    postgres_bin: Path | None
    """A directory with other Postgres binaries."""
    log_format: Literal["console", "json"]
    log_level: Literal["debug", "info", "warning", "error"]


async def serve(options: DevOptions) -> None:
    """Run the system until the first SIGTERM or SIGINT, then drain it and stop Postgres.

    Raises StandaloneError when it cannot be started.
    """
    signals = Signals(GRACE)
    logs.configure(options.log_level, options.log_format, "dev")
    refuse_taken(options.listen)
    async with AsyncExitStack() as stack:
        # Not given up half-way: what was started must be known to be stopped.
        try:
            postgres = await asyncio.to_thread(start_postgres, options.data_dir, binaries=options.postgres_bin)
        except StandaloneError:
            if signals.came:  # Ctrl-C reaches initdb too
                return
            raise
        stack.push_async_callback(asyncio.to_thread, postgres.stop)
        try:
            databases = await signals.during(prepare(postgres, options.shards, _say))
            address = await signals.during(_start(options, databases, stack))
        except Interrupted:
            return
        for shard in databases.shards:
            _say(f"shard {shard}: {databases.psql(shard)} -c {shlex.quote(_LOOK)}")
        # The one line on stdout: scripts wait for it.
        sys.stdout.write(f"rowcall: ready on {address}\n")
        sys.stdout.flush()
        try:
            await signals.during(_until_postgres_ends(postgres))
        except Interrupted as interrupted:
            seconds = GRACE.total_seconds()
            _say(f"{interrupted.number.name}: draining for {seconds:g} s at most; again ends at once")


async def _until_postgres_ends(postgres: Postgres) -> NoReturn:
    """Nobody stops it before us: without it nothing is served, and waiting for it would be in vain."""
    while postgres.is_running:  # noqa: ASYNC110  nobody sets an event when a process ends
        await asyncio.sleep(_LOOK_SECONDS)
    raise StandaloneError(
        f"The embedded Postgres (pid {postgres.pid}) ended by itself; {postgres.log} says why. What was acknowledged is "
        "committed: start again."
    )


async def _start(options: DevOptions, databases: Databases, stack: AsyncExitStack) -> str:
    """Start workers and gateway; returns the address once it answers. The stack drains them, the gateway first."""
    # As `python -m` and rowcall-worker have it: the modules that --servicer names may lie in the working directory.
    if "" not in sys.path:
        sys.path.insert(0, "")
    for variable, name in options.databases:
        os.environ[variable] = await asyncio.to_thread(databases.create, name)
    workers: list[Worker] = []
    gateways: list[Gateway] = []
    stack.push_async_callback(_drain, gateways, workers)
    try:
        for _ in range(options.workers):
            worker = Worker(_worker_settings(options, databases))
            await worker.start()
            workers.append(worker)
        gateway = Gateway(_gateway_settings(options, databases))
        await gateway.start()
        gateways.append(gateway)
    except (ImageError, OSError, RegistrationError, RowcallError, SettingsError) as error:
        raise StandaloneError(str(error)) from error
    address = str(Address(options.listen.host, gateway.port))
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        await wait_until_serving(channel, address, _READY_WITHIN)
    return address


async def _drain(gateways: Sequence[Gateway], workers: Sequence[Worker]) -> None:
    """The gateway first, whose callers wait for the workers; all of them within one grace."""
    began = time.monotonic()
    for gateway in gateways:
        await gateway.drain(GRACE)
    left = GRACE - timedelta(seconds=time.monotonic() - began)
    await asyncio.gather(*(worker.drain(max(left, _LEAST_GRACE)) for worker in workers))


def _worker_settings(options: DevOptions, databases: Databases) -> WorkerSettings:
    return WorkerSettings(
        catalogue=databases.catalogue,
        shards=databases.shards,
        images=options.images,
        servicers=options.servicers,
        allow_faults=options.allow_faults,
        # What ran when the process was killed is taken up again soon after the next start.
        lease=timedelta(seconds=5),
        log_format=options.log_format,
        log_level=options.log_level,
    )


def _gateway_settings(options: DevOptions, databases: Databases) -> GatewaySettings:
    return GatewaySettings(
        catalogue=databases.catalogue,
        shards=databases.shards,
        listen=str(options.listen),
        identity=IdentityMode.INSECURE_DEV,
        images=options.images,
        log_format=options.log_format,
        log_level=options.log_level,
    )


def _say(text: str) -> None:
    sys.stderr.write(f"rowcall: {text}\n")
    sys.stderr.flush()
