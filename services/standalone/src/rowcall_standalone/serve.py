"""`rowcall serve`: gateway and workers in one process, or in N, on Postgres servers that are there. Called by `commands`.

The same as `rowcall-gateway` and `rowcall-worker`, with the same settings: to run them apart later is to start two programs
instead of one. Exit codes are theirs: 0 after a drain; 1 when it cannot start, or takes no more calls though nobody has told it to end; 2 when settings, servicers or images are wrong;
130 or 143 when a second signal ends it at once, or the drain takes longer than it may.

With --processes, the process that was started supervises others, which are this program again; and so is the one that a
worker starts for jobs whose workers died (`rowcall_worker.claiming.quarantine`), which is a worker and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Final

import uvloop

from rowcall import ending, logs
from rowcall.address import Address
from rowcall.apart import in_thread
from rowcall.garbage import spare_collections
from rowcall.heaps import share_heaps
from rowcall.ops.port import ops_port
from rowcall.processes import Member, kill_children, own_command, supervise
from rowcall.queue.choice import exporters_of
from rowcall.settings import load_settings
from rowcall.signals import end_on_signals
from rowcall_gateway.edge.head_export import head_export_from_environment
from rowcall_gateway.edge.reserved import reserved
from rowcall_standalone.settings import ServeSettings
from rowcall_standalone.system import LAST_SECONDS, CannotStart, System, SystemTelemetry
from rowcall_worker.claiming.quarantine import Command, shard_of
from rowcall_worker.main import run_apart
from rowcall_worker.membership.alive import sign_of_life
from rowcall_worker.membership.signs import file_of, signs_of_several

CANNOT_START: Final = 1
WRONG_SETTINGS: Final = 2

SERVICE: Final = "rowcall-serve"
"""Who it says that it is where spans are told, unless OpenTelemetry's variables say otherwise."""


def serve(arguments: Sequence[str]) -> int:
    """Serves until SIGTERM or SIGINT, then drains; the exit code, to be left with at once (`rowcall.ending.leave`).

    Args:
        arguments: Behind `rowcall serve`.

    Raises:
        SystemExit: Code 2, with everything that is wrong with the settings; code 0 after --help.
    """
    # As in the services: what is not begun need not be finished. From the event loop on, `rowcall.ending` hears them.
    end_on_signals()
    # A worker starts processes while gRPC's threads run: its handlers for those that fork and go on using it are of no use to
    # them, and can end such a program before it begins.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # As `python -m` and rowcall-worker have it: the modules that --servicer names may lie in the working directory.
    if "" not in sys.path:
        sys.path.insert(0, "")
    member = Member.from_environment()
    settings = load_settings(ServeSettings, arguments)
    shard = None if member is None else shard_of(member.told)
    if member is not None and shard is not None:
        return run_apart(settings, member, shard)
    share_heaps()
    logs.configure(settings.log_level, settings.log_format, "serve", process=None if member is None else member.number)
    if member is not None:
        settings = settings.model_copy(update={"listen": member.told})
    elif settings.processes > 1:
        return _several(settings)
    return _run(settings, member)


def _several(settings: ServeSettings) -> int:
    """Serves in several processes, on one port; the exit code."""
    with ExitStack() as stack:
        try:
            address = stack.enter_context(reserved(settings.address))
            stack.enter_context(signs_of_several(settings.health_file, settings.processes))
            return supervise(
                settings.program,
                settings.processes,
                ready_line=_ready(address),
                kill_after=ending.kill_after(settings.end_within),
                told=str(address),
            )
        except OSError as error:
            return _say(str(error), CANNOT_START)


def _run(settings: ServeSettings, member: Member | None) -> int:
    """Serves in this process; the exit code."""
    try:
        return ending.run(_serve(settings, member), uvloop.new_event_loop)
    except CannotStart as error:
        return _say(str(error), WRONG_SETTINGS if error.is_wrong else CANNOT_START)
    except OSError as error:
        return _say(str(error), CANNOT_START)
    except BaseException:  # noqa: BLE001  a servicer's own code may raise anything as it is registered
        traceback.print_exc()
        return CANNOT_START


async def _serve(settings: ServeSettings, member: Member | None) -> int:
    told = asyncio.Event()
    end = ending.Ending(told.set, settings.end_within, at_once=kill_children)
    if member is not None:
        # The supervisor's word is no signal: whoever signals all processes of a service, as systemd does, signals each once.
        member.on_end(end.begin)
    try:
        telemetry = SystemTelemetry(
            SERVICE,
            asked=settings.traces_asked,
            deployed_version=settings.deployed_version,
            also=exporters_of(settings, service=SERVICE),
        )
        head_export = head_export_from_environment()
    except ValueError as error:
        return _say(str(error), WRONG_SETTINGS)
    system = System(
        settings,
        settings,
        processes=settings.processes,
        shares_port=member is not None,
        telemetry=telemetry,
        head_export=head_export,
        command=Command(own_command(), 0 if member is None else member.number),
    )
    ops_address = settings.ops_address(None if member is None else member.number)
    async with ops_port(ops_address, system.services, deployed_version=settings.deployed_version, push=telemetry.push):
        starting = asyncio.create_task(system.start(), name="start")
        waiting = asyncio.create_task(told.wait(), name="signal")
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        grace = settings.grace
        try:
            if starting.done():
                # Nobody was told that it was ready: where one of the two cannot start, the other ends without delay.
                grace = timedelta(0)
                await starting
                spare_collections()
                async with sign_of_life(file_of(settings.health_file, None if member is None else member.number)):
                    grace = settings.grace
                    if member is None:
                        sys.stdout.write(f"{_ready(Address(settings.address.host, system.port))}\n")
                        sys.stdout.flush()
                    else:
                        member.ready()
                    await waiting
            else:
                starting.cancel()
                await asyncio.wait({starting})
        finally:
            await system.drain(grace)
    # At once: together they must not take longer than what is left of the end (`rowcall.ending.MARGIN`).
    last = [asyncio.ensure_future(telemetry.end())]
    if head_export is not None:
        last.append(asyncio.ensure_future(in_thread(head_export.shutdown)))
    await asyncio.wait(last, timeout=LAST_SECONDS)
    return 0


def _ready(address: Address) -> str:
    """The one line on stdout: scripts wait for it."""
    return f"rowcall: ready on {address}"


def _say(problem: str, exit_code: int) -> int:
    # What is wrong with settings is a page of its own, with the program's name at its head.
    whose = "" if problem.startswith(f"{ServeSettings.program}: ") else "rowcall: "
    for line in problem.splitlines():
        sys.stderr.write(f"{whose}{line}\n")
    return exit_code
