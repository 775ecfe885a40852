"""What the process itself takes, under the names that Prometheus's own clients give it. Read from the operating system when asked."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rowcall.telemetry.tallies import Counter, Gauge, Labels, Tally

_STARTED_AT: Final = time.time()
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class _CpuTime(Counter):
    """Counted by the operating system."""

    def values(self) -> dict[Labels, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {(): used.ru_utime + used.ru_stime}


def _resident() -> Mapping[Labels, float]:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return {(): float(int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE)}
    return {}


def _open_files() -> Mapping[Labels, float]:
    with contextlib.suppress(OSError):
        return {(): float(len(os.listdir("/proc/self/fd")))}  # noqa: PTH208  names only, and no object for each
    return {}


def process_tallies() -> tuple[Tally, ...]:
    """Time of processors, memory, open files, and since when it runs. What a system does not tell is left out."""
    cpu = _CpuTime("process.cpu", "Time of processors that this process has used.", unit="s")
    memory = Gauge("process.resident_memory", "Memory of this process that is in RAM.", unit="By")
    files = Gauge("process.open_fds", "Files and connections that are open.")
    started = Gauge("process.start_time", "When this process started, in Unix time.", unit="s")
    memory.watch(_resident)
    files.watch(_open_files)
    started.watch(lambda: {(): _STARTED_AT})
    return cpu, memory, files, started
