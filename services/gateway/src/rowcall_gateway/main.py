"""The process `rowcall-gateway`: settings, logs, signals, exit codes.

Exit codes: 0 after a drain; 1 when it cannot start; 2 when its settings are wrong; 128 + the signal's number when a
second signal ends it at once. With --processes, this process supervises others, which are this program again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Final

import structlog
import uvloop

from rowcall import logs
from rowcall.catalogue.images import ImageError
from rowcall.errors import RowcallError
from rowcall.garbage import spare_collections
from rowcall.processes import Member, supervise
from rowcall.settings import SettingsError, load_settings, refuse
from rowcall_gateway.edge.reserved import reserved
from rowcall_gateway.edge.telemetry import provider_from_environment
from rowcall_gateway.server import Gateway
from rowcall_gateway.settings import GatewaySettings

CANNOT_START: Final = 1
WRONG_SETTINGS: Final = 2

_log = structlog.get_logger(__name__)


def main() -> None:
    """Runs a gateway until SIGTERM or SIGINT, then drains it."""
    member = Member.from_environment()
    settings = load_settings(GatewaySettings)
    logs.configure(
        settings.log_level, settings.log_format, "gateway", process=None if member is None else member.number
    )
    if member is not None:
        settings = settings.model_copy(update={"listen": member.told})
    elif settings.processes > 1:
        sys.exit(_several(settings))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(serve(settings, member)))


def _several(settings: GatewaySettings) -> int:
    """Runs several gateways, each as a process of its own, on one port; the exit code."""
    try:
        with reserved(settings.address) as address:
            told = str(address)
            return supervise(
                settings.program, settings.processes, ready_line=f"rowcall-gateway: ready on {told}", told=told
            )
    except OSError as error:
        return _say(str(error), CANNOT_START)


async def serve(settings: GatewaySettings, member: Member | None = None) -> int:
    """Serves until a signal comes, or the end of the supervisor that this process is a member of; the exit code."""
    stopping = _watch_signals(member)
    try:
        provider = provider_from_environment()
    except ValueError as error:
        return _say(str(error), WRONG_SETTINGS)
    gateway = Gateway(settings, tracer_provider=provider, shares_port=member is not None)
    try:
        await gateway.start()
    except SettingsError as error:
        refuse(error)
    except (ImageError, RowcallError, OSError) as error:
        return _say(str(error), CANNOT_START)
    spare_collections()
    if member is None:
        sys.stdout.write(f"rowcall-gateway: ready on {gateway.address}\n")
        sys.stdout.flush()
    else:
        member.ready()
    await stopping
    await gateway.drain()
    if provider is not None:
        await asyncio.to_thread(provider.shutdown)
    return 0


def _watch_signals(member: Member | None) -> asyncio.Future[None]:
    """The first signal sets the result; the second one ends the process: what was acknowledged is committed.

    The supervisor's word is no signal: whoever signals all processes of a service, as systemd does, signals each once.
    """
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()
    signalled = asyncio.Event()

    def stop() -> None:
        if not stopping.done():
            stopping.set_result(None)

    def came(number: signal.Signals) -> None:
        if signalled.is_set():
            logs.flush()
            os._exit(128 + number)
        signalled.set()
        _log.info("stopping", signal=number.name)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, came, number)
    if member is not None:
        member.on_end(stop)
    return stopping


def _say(problem: str, exit_code: int) -> int:
    for line in problem.splitlines():
        sys.stderr.write(f"rowcall-gateway: {line}\n")
    return exit_code
