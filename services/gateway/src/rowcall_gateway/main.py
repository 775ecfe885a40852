"""The process `rowcall-gateway`: settings, logs, signals, exit codes.

Exit codes: 0 after a drain; 1 when it cannot start, or takes no more calls though nobody has told it to end; 2 when its settings or images are wrong; 128 + the signal's number when a
second signal ends it at once, or the drain takes longer than the grace and `rowcall.ending.MARGIN`. With --processes, this process supervises others, which are this program again.
"""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version
from typing import Final

import uvloop

from rowcall import ending, logs
from rowcall.apart import in_thread
from rowcall.catalogue.images import ImageError
from rowcall.errors import RowcallError
from rowcall.garbage import spare_collections
from rowcall.heaps import share_heaps
from rowcall.ops.port import ops_port
from rowcall.processes import Member, supervise
from rowcall.queue.choice import exporters_of
from rowcall.settings import SettingsError, load_settings
from rowcall.telemetry.environment import (
    metrics_push_from_environment,
    sampling_from_environment,
    spans_from_environment,
)
from rowcall_gateway.edge.head_export import head_export_from_environment
from rowcall_gateway.edge.reserved import reserved
from rowcall_gateway.edge.telemetry import Traces
from rowcall_gateway.server import Gateway
from rowcall_gateway.settings import GatewaySettings

CANNOT_START: Final = 1
WRONG_SETTINGS: Final = 2

_LAST_SPANS: Final = 5.0
"""Seconds that the collector of spans has to take the last of them."""


def main() -> None:
    """Runs a gateway until SIGTERM or SIGINT, then drains it."""
    share_heaps()
    member = Member.from_environment()
    settings = load_settings(GatewaySettings)
    logs.configure(
        settings.log_level, settings.log_format, "gateway", process=None if member is None else member.number
    )
    if member is not None:
        settings = settings.model_copy(update={"listen": member.told})
    elif settings.processes > 1:
        sys.exit(_several(settings))
    ending.leave(_run(settings, member))


def _several(settings: GatewaySettings) -> int:
    """Runs several gateways, each as a process of its own, on one port; the exit code."""
    try:
        with reserved(settings.address) as address:
            told = str(address)
            return supervise(
                settings.program,
                settings.processes,
                ready_line=f"rowcall-gateway: ready on {told}",
                kill_after=ending.kill_after(settings.drain_notice + settings.grace),
                told=told,
            )
    except OSError as error:
        return _say(str(error), CANNOT_START)


def _run(settings: GatewaySettings, member: Member | None) -> int:
    """Runs a gateway in this process; the exit code."""
    try:
        return ending.run(serve(settings, member), uvloop.new_event_loop)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return WRONG_SETTINGS
    except ImageError as error:
        return _say(str(error), WRONG_SETTINGS)
    except (RowcallError, OSError) as error:
        return _say(str(error), CANNOT_START)


async def serve(settings: GatewaySettings, member: Member | None = None) -> int:
    """Serves until a signal comes, or the end of the supervisor that this process is a member of; the exit code.

    Raises:
        ImageError, SettingsError, RowcallError, OSError: As `Gateway.start`.
    """
    told = asyncio.Event()
    end = ending.Ending(told.set, settings.drain_notice + settings.grace)
    if member is not None:
        # The supervisor's word is no signal: whoever signals all processes of a service, as systemd does, signals each once.
        member.on_end(end.begin)
    told_version = settings.deployed_version or version("rowcall-gateway")
    try:
        spans = spans_from_environment(
            settings.program, version=told_version, also=exporters_of(settings, service=settings.program)
        )
        push = metrics_push_from_environment(settings.program, version=told_version)
        sampling = sampling_from_environment(settings.traces_asked)
        head_export = head_export_from_environment()
    except ValueError as error:
        return _say(str(error), WRONG_SETTINGS)
    traces = None if spans is None else Traces(spans, sampling)
    gateway = Gateway(settings, traces=traces, head_export=head_export, shares_port=member is not None)
    ops_address = settings.ops_address(None if member is None else member.number)
    async with ops_port(ops_address, [gateway], deployed_version=settings.deployed_version, push=push):
        await gateway.start()
        spare_collections()
        if member is None:
            sys.stdout.write(f"rowcall-gateway: ready on {gateway.address}\n")
            sys.stdout.flush()
        else:
            member.ready()
        await told.wait()
        await gateway.drain()
    # At once: together they must not take longer than what is left of the end (`rowcall.ending.MARGIN`).
    last = [asyncio.ensure_future(in_thread(each.shutdown)) for each in (spans, head_export) if each is not None]
    if last:
        await asyncio.wait(last, timeout=_LAST_SPANS)
    return 0


def _say(problem: str, exit_code: int) -> int:
    for line in problem.splitlines():
        sys.stderr.write(f"rowcall-gateway: {line}\n")
    return exit_code
