"""The process `rowcall-worker`: settings, event loop, signals, readiness, exit codes.

SIGTERM or SIGINT drains: exit code 0. A second signal ends at once: exit code 130 or 143; what ran is rescued by others.
Exit code 1: it cannot start, as with a shard of another schema, like a gateway. Exit code 2: something is wrong with
settings, servicers or images. With --processes, this process supervises others, which are this program again; and so is the
process that a worker starts for jobs whose workers died (`rowcall_worker.claiming.quarantine`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import Final, NoReturn

import structlog
import uvloop

from rowcall import logs
from rowcall.catalogue.images import ImageError
from rowcall.errors import RowcallError
from rowcall.garbage import spare_collections
from rowcall.processes import Member, kill_children, own_command, supervise
from rowcall.settings import SettingsError, load_settings, refuse
from rowcall_worker.claiming.quarantine import Apart, Command, shard_of
from rowcall_worker.membership.alive import sign_of_life
from rowcall_worker.membership.signs import file_of, signs_of_several
from rowcall_worker.serving.handlers import RegistrationError
from rowcall_worker.settings import WorkerSettings, settings_apart
from rowcall_worker.worker import Worker

READY_LINE: Final = "rowcall-worker: ready"
"""Printed to stdout when the worker claims jobs."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_log = structlog.get_logger(__name__)


def main() -> None:
    """Runs a worker until it is told to stop."""
    member = Member.from_environment()
    # As `python -m` has it: the modules that --servicer names may lie in the working directory.
    if "" not in sys.path:
        sys.path.insert(0, "")
    settings = load_settings(WorkerSettings)
    shard = None if member is None else shard_of(member.told)
    logs.configure(
        settings.log_level,
        settings.log_format,
        "worker",
        process=member.number or None if member is not None else None,
        part=None if shard is None else "suspects",
    )
    if shard is not None:
        settings = settings_apart(settings, shard)
    try:
        if member is None and settings.processes > 1:
            sys.exit(_several(settings))
        uvloop.run(_serve(settings, member))
    except SettingsError as error:
        refuse(error)
    except (RegistrationError, ImageError) as error:
        sys.stderr.write(f"{WorkerSettings.program}: {error}\n")
        _exit(2)
    except (RowcallError, OSError) as error:
        sys.stderr.write(f"{WorkerSettings.program}: {error}\n")
        _exit(1)
    _exit(0)


def _several(settings: WorkerSettings) -> int:
    """Runs several workers, each as a process of its own; the exit code."""
    with signs_of_several(settings.health_file, settings.processes):
        return supervise(settings.program, settings.processes, ready_line=READY_LINE)


async def _serve(settings: WorkerSettings, member: Member | None) -> None:
    told = asyncio.Event()
    if member is not None and shard_of(member.told) is not None:
        worker = Worker(settings, apart=Apart(tell=member.tell, done=told.set))
    else:
        worker = Worker(settings, command=Command(own_command(), 0 if member is None else member.number))
    loop = asyncio.get_running_loop()
    # The supervisor's word is no signal: whoever signals all processes of a service, as systemd does, signals each once.
    signalled = asyncio.Event()
    for each in _SIGNALS:
        loop.add_signal_handler(each, _told_to_stop, each, signalled, told)
    if member is not None:
        member.on_end(told.set)
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
    else:
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting


def _told_to_stop(number: signal.Signals, signalled: asyncio.Event, told: asyncio.Event) -> None:
    if signalled.is_set():
        _log.warning("second signal, ending at once", signal=number.name)
        kill_children()
        _exit(128 + number)
    signalled.set()
    _log.info("signal", signal=number.name)
    told.set()


def _exit(code: int) -> NoReturn:
    """Ends the process although a handler's thread may still run: its job was handed back."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
