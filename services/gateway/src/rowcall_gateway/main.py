"""The process `rowcall-gateway`: settings, logs, signals, exit codes.

Exit codes: 0 after a drain; 1 when it cannot start; 2 when its settings are wrong; 128 + the signal's number when a
second signal ends it at once.
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
from rowcall.settings import SettingsError, load_settings, refuse
from rowcall_gateway.server import Gateway
from rowcall_gateway.settings import GatewaySettings
from rowcall_gateway.telemetry import provider_from_environment

CANNOT_START: Final = 1
WRONG_SETTINGS: Final = 2

_log = structlog.get_logger(__name__)


def main() -> None:
    """Runs a gateway until SIGTERM or SIGINT, then drains it."""
    settings = load_settings(GatewaySettings)
    logs.configure(settings.log_level, settings.log_format, "gateway")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(serve(settings)))


async def serve(settings: GatewaySettings) -> int:
    """Serves until a signal comes; the exit code."""
    stopping = _watch_signals()
    try:
        provider = provider_from_environment()
    except ValueError as error:
        return _say(str(error), WRONG_SETTINGS)
    gateway = Gateway(settings, tracer_provider=provider)
    try:
        await gateway.start()
    except SettingsError as error:
        refuse(error)
    except (ImageError, RowcallError, OSError) as error:
        return _say(str(error), CANNOT_START)
    spare_collections()
    sys.stdout.write(f"rowcall-gateway: ready on {gateway.address}\n")
    sys.stdout.flush()
    await stopping
    await gateway.drain()
    if provider is not None:
        await asyncio.to_thread(provider.shutdown)
    return 0


def _watch_signals() -> asyncio.Future[None]:
    """The first signal sets the result; the second one ends the process: what was acknowledged is committed."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()

    def came(number: signal.Signals) -> None:
        if stopping.done():
            logs.flush()
            os._exit(128 + number)
        _log.info("stopping", signal=number.name)
        stopping.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, came, number)
    return stopping


def _say(problem: str, exit_code: int) -> int:
    for line in problem.splitlines():
        sys.stderr.write(f"rowcall-gateway: {line}\n")
    return exit_code
