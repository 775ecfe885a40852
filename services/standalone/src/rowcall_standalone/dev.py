"""`rowcall dev`: what `serve` runs, on an embedded Postgres and with callers who are believed. Called by `commands`."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, NoReturn

import grpc

from rowcall import logs
from rowcall.address import Address
from rowcall.apart import in_thread
from rowcall.embedded import Postgres
from rowcall.ops.port import ops_port
from rowcall_gateway.edge.identity import IdentityMode
from rowcall_gateway.settings import GatewaySettings
from rowcall_standalone.databases import Databases, prepare, start_postgres
from rowcall_standalone.errors import StandaloneError
from rowcall_standalone.issuing.issuer import open_issuer
from rowcall_standalone.listen import refuse_taken
from rowcall_standalone.serving import CHANNEL_OPTIONS, wait_until_serving
from rowcall_standalone.signals import Interrupted, Signals
from rowcall_standalone.system import System, SystemTelemetry
from rowcall_worker import WorkerSettings

GRACE = timedelta(seconds=10)
"""How long a drain lets calls and jobs finish: a developer waits at the terminal."""

SERVICE = "rowcall-dev"
"""Who it says that it is where spans are told, unless OpenTelemetry's variables say otherwise."""

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
    ops_listen: Address | None
    """Where it tells of itself over HTTP; None: nowhere."""
    identity: IdentityMode
    """How callers are known: believed, or by tokens of the issuer that it plays."""
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
        stack.push_async_callback(in_thread, postgres.stop)
        try:
            databases = await signals.during(prepare(postgres, options.shards, _say))
            address = await signals.during(_start(options, databases, stack))
        except Interrupted:
            return
        for shard in databases.shards:
            _say(f"shard {shard}: {databases.psql(shard)} -c {shlex.quote(_LOOK)}")
        if options.identity.takes_tokens:
            _say(f"callers need a token: rowcall token --tenant acme --data-dir {shlex.quote(str(options.data_dir))}")
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
    worker = _worker_settings(options, databases)
    try:
        telemetry = SystemTelemetry(SERVICE, asked=worker.traces_asked)
    except ValueError as error:
        raise StandaloneError(str(error)) from error
    stack.push_async_callback(telemetry.end)
    system = System(_gateway_settings(options, databases), worker, workers=options.workers, telemetry=telemetry)
    try:
        await stack.enter_async_context(ops_port(options.ops_listen, system.services, push=telemetry.push))
    except OSError as error:
        raise StandaloneError(f"{error} It is what --ops-listen says.") from error
    stack.push_async_callback(system.drain, GRACE)
    await system.start()
    address = str(Address(options.listen.host, system.port))
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        await wait_until_serving(channel, address, _READY_WITHIN)
    return address


def _worker_settings(options: DevOptions, databases: Databases) -> WorkerSettings:
    return WorkerSettings(
        catalogue=databases.worker.catalogue,
        shards=databases.worker.shards,
        images=options.images,
        servicers=options.servicers,
        allow_faults=options.allow_faults,
        # What ran when the process was killed is taken up again soon after the next start.
        lease=timedelta(seconds=5),
        ops_listen=_text(options.ops_listen),
        log_format=options.log_format,
        log_level=options.log_level,
    )


def _gateway_settings(options: DevOptions, databases: Databases) -> GatewaySettings:
    return GatewaySettings(
        catalogue=databases.gateway.catalogue,
        shards=databases.gateway.shards,
        listen=str(options.listen),
        ops_listen=_text(options.ops_listen),
        identity=options.identity,
        issuers=open_issuer(options.data_dir).settings if options.identity.takes_tokens else None,
        images=options.images,
        log_format=options.log_format,
        log_level=options.log_level,
    )


def _text(address: Address | None) -> str | None:
    return None if address is None else str(address)


def _say(text: str) -> None:
    sys.stderr.write(f"rowcall: {text}\n")
    sys.stderr.flush()
