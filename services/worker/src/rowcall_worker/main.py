"""The process `rowcall-worker`: settings, event loop, signals, readiness, exit codes.

SIGTERM or SIGINT drains: exit code 0. A second signal ends at once, as does a drain that takes longer than the grace and
`rowcall.ending.MARGIN`: exit code 130 or 143; what ran is rescued by others. Exit code 1: it cannot start, as with a shard of another
schema, like a gateway. Exit code 2: something is wrong with settings, servicers or images. With --processes, this process
supervises others, which are this program again; and so is the process that a worker starts for jobs whose workers died
(`rowcall_worker.claiming.quarantine`).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import traceback
from importlib.metadata import version
from typing import Final

import uvloop

from rowcall import ending, logs
from rowcall.apart import in_thread
from rowcall.catalogue.images import ImageError
from rowcall.errors import RowcallError
from rowcall.garbage import spare_collections
from rowcall.ops.port import ops_port
from rowcall.processes import Member, kill_children, own_command, supervise
from rowcall.queue.choice import exporters_of
from rowcall.settings import SettingsError, load_settings
from rowcall.telemetry.environment import (
    metrics_push_from_environment,
    sampling_from_environment,
    spans_from_environment,
)
from rowcall_worker.claiming.quarantine import Apart, Command, said, shard_of
from rowcall_worker.membership.alive import sign_of_life
from rowcall_worker.membership.signs import file_of, signs_of_several
from rowcall_worker.serving.handlers import RegistrationError
from rowcall_worker.settings import WorkerSettings, settings_apart
from rowcall_worker.worker import Worker

READY_LINE: Final = "rowcall-worker: ready"
"""Printed to stdout when the worker claims jobs."""

CANNOT_START: Final = 1
WRONG_SETTINGS: Final = 2

_LAST_SPANS: Final = 5.0
"""Seconds that exporters of spans have to take the last of them."""


def main() -> None:
    """Runs a worker until it is told to stop."""
    member = Member.from_environment()
    # As `python -m` has it: the modules that --servicer names may lie in the working directory.
    if "" not in sys.path:
        sys.path.insert(0, "")
    settings = load_settings(WorkerSettings)
    shard = None if member is None else shard_of(member.told)
    if member is not None and shard is not None:
        ending.leave(run_apart(settings, member, shard))
    logs.configure(settings.log_level, settings.log_format, "worker", process=None if member is None else member.number)
    if member is None and settings.processes > 1:
        try:
            sys.exit(_several(settings))
        except OSError as error:
            sys.exit(_say(str(error), CANNOT_START))
    # Whatever a handler has left running does not keep the process: its job was handed back.
    ending.leave(_run(settings, member))


def run_apart(settings: WorkerSettings, member: Member, shard: str) -> int:
    """Runs, as the process that a worker has started for them, the suspects of one shard; the exit code. Of `rowcall serve` too.

    Args:
        settings: Those of the program that this process is.
        member: What it was told at its start.
        shard: Whose suspects.
    """
    logs.configure(settings.log_level, settings.log_format, "worker", process=member.number or None, part="suspects")
    return _run(settings_apart(settings, shard), member)


def _several(settings: WorkerSettings) -> int:
    """Runs several workers, each as a process of its own; the exit code."""
    with signs_of_several(settings.health_file, settings.processes):
        return supervise(
            settings.program,
            settings.processes,
            ready_line=READY_LINE,
            kill_after=ending.kill_after(settings.grace),
        )


def _run(settings: WorkerSettings, member: Member | None) -> int:
    """Runs a worker in this process; the exit code."""
    try:
        return ending.run(_serve(settings, member), uvloop.new_event_loop)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return WRONG_SETTINGS
    except (RegistrationError, ImageError) as error:
        return _say(str(error), WRONG_SETTINGS)
    except (RowcallError, OSError) as error:
        return _say(str(error), CANNOT_START)
    except BaseException:  # noqa: BLE001  a servicer's own code may raise anything as it is registered
        traceback.print_exc()
        return CANNOT_START


async def _serve(settings: WorkerSettings, member: Member | None) -> int:
    told = asyncio.Event()
    end = ending.Ending(told.set, settings.grace, at_once=kill_children)
    if member is not None:
        # The supervisor's word is no signal: whoever signals all processes of a service, as systemd does, signals each once.
        member.on_end(end.begin)
    is_apart = member is not None and shard_of(member.told) is not None
    told_version = settings.deployed_version or version("rowcall-worker")
    try:
        spans = spans_from_environment(
            settings.program, version=told_version, also=exporters_of(settings, service=settings.program)
        )
        # One that runs suspects tells whoever has started it, which tells of both.
        push = None if is_apart else metrics_push_from_environment(settings.program, version=told_version)
        sampling = sampling_from_environment(settings.traces_asked)
    except ValueError as error:
        return _say(str(error), WRONG_SETTINGS)
    apart = None
    if member is not None and is_apart:
        apart = Apart(tell=member.tell, done=end.begin)
        worker = Worker(settings, apart=apart, spans=spans, sampling=sampling)
    else:
        command = Command(own_command(), 0 if member is None else member.number)
        worker = Worker(settings, command=command, spans=spans, sampling=sampling)
    number = None if member is None else member.number
    address = settings.ops_address(number)
    async with ops_port(address, [worker], deployed_version=settings.deployed_version, push=push):
        await _work(settings, worker, told, member, apart)
    if spans is not None:
        await asyncio.wait({asyncio.ensure_future(in_thread(spans.shutdown))}, timeout=_LAST_SPANS)
    return 0


async def _work(
    settings: WorkerSettings, worker: Worker, told: asyncio.Event, member: Member | None, apart: Apart | None
) -> None:
    """Starts a worker and drains it when it is told to end."""
    starting = asyncio.create_task(worker.start(), name="start")
    waiting = asyncio.create_task(told.wait(), name="signal")
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        await starting  # raises what it raised
        spare_collections()
        async with sign_of_life(file_of(settings.health_file, None if member is None else member.number)):
            if member is None:
                sys.stdout.write(f"{READY_LINE}\n")
                sys.stdout.flush()
            else:
                member.ready()
            await waiting
            await worker.drain()
            if apart is not None:
                apart.tell(said(()))
    else:
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting


def _say(problem: str, exit_code: int) -> int:
    sys.stderr.write(f"{WorkerSettings.program}: {problem}\n")
    return exit_code
