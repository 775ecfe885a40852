"""The server processes of a cluster: reading their pid file, and stopping those an earlier owner left running.

A killed owner leaves its server (if the guardian died too), a killed server leaves its pid file and perhaps some of its
children. Called by `server`, which holds the directory's lock: what still runs there has no owner.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from rowcall.embedded.errors import DataDirInUseError

MARK = "cluster_name=rowcall"
"""A setting on the command line of every server started by this package: tells it from one started by hand."""

_SHUTDOWN = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))
"""For a postmaster: fast shutdown, immediate shutdown, no choice; each with the seconds it is given."""

_KILL = ((signal.SIGKILL, 10.0),)
"""For children whose postmaster was killed: what they share is lost, and recovery begins from the log."""


@dataclass(frozen=True, slots=True)
class PidFile:
    """What `postmaster.pid` says. Its lines: https://www.postgresql.org/docs/current/storage-file-layout.html"""

    pid: int
    """The postmaster's process id."""
    ready: bool
    """Whether it accepts connections."""


def read_pid_file(cluster: Path) -> PidFile | None:
    """The cluster's pid file, or None when there is none or it is still being written."""
    try:
        lines = _pid_path(cluster).read_text().splitlines()
        return PidFile(pid=abs(int(lines[0])), ready=len(lines) > 7 and lines[7].strip() == "ready")
    except (FileNotFoundError, IndexError, ValueError):
        return None


def stop_leftovers(cluster: Path) -> None:
    """End what still runs on the cluster without an owner, and remove a pid file that nothing stands behind.

    Raises DataDirInUseError when a server runs there that this package did not start, or one that cannot be stopped.
    """
    if not _pid_path(cluster).exists():
        return
    pid_file = read_pid_file(cluster)
    if pid_file is not None:
        _stop_postmaster(pid_file.pid, cluster)
    if _pid_path(cluster).exists():
        # The postmaster was killed. Its children follow when they notice, and until then its shared memory is in use.
        _stop(_running_on(cluster), _KILL, cluster)
        # The number may be another process's by now, and Postgres would refuse to start because of it.
        _pid_path(cluster).unlink(missing_ok=True)


def _stop_postmaster(pid: int, cluster: Path) -> None:
    try:
        process = psutil.Process(pid)
        if not _runs_on(process, cluster):
            return
        ours = MARK in process.cmdline()
    except psutil.Error:
        return
    if not ours:
        raise DataDirInUseError(
            f"A Postgres server that Rowcall did not start (pid {pid}) runs on {cluster}: stop it with "
            f"`pg_ctl -D {cluster} stop`, or use another data directory."
        )
    _stop([process], _SHUTDOWN, cluster)


def _running_on(cluster: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _runs_on(process, cluster)]


def _runs_on(process: psutil.Process, cluster: Path) -> bool:
    """Whether it is a live Postgres process of this cluster: each works in its cluster's directory."""
    try:
        return (
            process.status() != psutil.STATUS_ZOMBIE
            and "postgres" in process.name()
            and cluster.samefile(process.cwd())
        )
    except (psutil.Error, OSError):
        return False  # gone meanwhile, or another user's: the cluster's server is its owner's, and visible to us


def _stop(processes: Iterable[psutil.Process], signals: Iterable[tuple[int, float]], cluster: Path) -> None:
    left = list(processes)
    for number, seconds in signals:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        deadline = time.monotonic() + seconds
        while left and time.monotonic() < deadline:
            psutil.wait_procs(left, timeout=0.02)
            # A zombie counts as ended: whoever adopted it may never collect it.
            left = [process for process in left if _runs_on(process, cluster)]
        if not left:
            return
    pids = ", ".join(str(process.pid) for process in left)
    raise DataDirInUseError(
        f"Leftover Postgres processes on {cluster} cannot be stopped (pids {pids}): stop them, or use another data "
        "directory."
    )


def _pid_path(cluster: Path) -> Path:
    return cluster / "postmaster.pid"
