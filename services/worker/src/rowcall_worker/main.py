"""The process `rowcall-worker`: settings, event loop, signals, readiness, exit codes.

SIGTERM or SIGINT drains: exit code 0. A second signal ends at once: exit code 130 or 143; what ran is rescued by others.
Exit code 1: it cannot start, as with a shard of another schema, like a gateway. Exit code 2: something is wrong with
settings, servicers or images.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import structlog
import uvloop

from rowcall import logs
from rowcall.catalogue.images import ImageError
from rowcall.errors import RowcallError
from rowcall.garbage import spare_collections
from rowcall.settings import SettingsError, load_settings, refuse
from rowcall_worker.alive import sign_of_life
from rowcall_worker.handlers import RegistrationError
from rowcall_worker.settings import WorkerSettings
from rowcall_worker.worker import Worker

READY_LINE: Final = "rowcall-worker: ready"
"""Printed to stdout when the worker claims jobs."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_log = structlog.get_logger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a worker until it is told to stop. `argv`: without the program's name; None: of this process."""
    # As `python -m` has it: the modules that --servicer names may lie in the working directory.
    if "" not in sys.path:
        sys.path.insert(0, "")
    settings = load_settings(WorkerSettings, argv)
    logs.configure(settings.log_level, settings.log_format, "worker")
    try:
        uvloop.run(_serve(settings))
    except SettingsError as error:
        refuse(error)
    except (RegistrationError, ImageError) as error:
        sys.stderr.write(f"{WorkerSettings.program}: {error}\n")
        _exit(2)
    except (RowcallError, OSError) as error:
        sys.stderr.write(f"{WorkerSettings.program}: {error}\n")
        _exit(1)
    _exit(0)


async def _serve(settings: WorkerSettings) -> None:
    worker = Worker(settings)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in _SIGNALS:
        loop.add_signal_handler(each, _told_to_stop, each, told)
    starting = asyncio.create_task(worker.start(), name="start")
    waiting = asyncio.create_task(told.wait(), name="signal")
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        await starting  # raises what it raised
        spare_collections()
        async with sign_of_life(settings.health_file):
            sys.stdout.write(f"{READY_LINE}\n")
            sys.stdout.flush()
            await waiting
            await worker.drain()
    else:
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting


def _told_to_stop(number: signal.Signals, told: asyncio.Event) -> None:
    if told.is_set():
        _log.warning("second signal, ending at once", signal=number.name)
        _exit(128 + number)
    _log.info("signal", signal=number.name)
    told.set()


def _exit(code: int) -> NoReturn:
    """Ends the process although a handler's thread may still run: its job was handed back."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
