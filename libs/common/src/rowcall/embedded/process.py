"""The server's process: launching `postgres`, seeing it answer, ending it. Called by `server`."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import psycopg

from rowcall.embedded import guardian, postmaster
from rowcall.embedded.account import Account
from rowcall.embedded.binaries import Binaries
from rowcall.embedded.cluster import SUPERUSER
from rowcall.embedded.data_dir import DataDir
from rowcall.embedded.errors import PortInUseError, StartError
from rowcall.embedded.guardian import Guardian

HOST = "127.0.0.1"
"""The only address an embedded Postgres listens on."""

_FREE_PORTS = range(15000, 32000)
"""Below the range from which Linux and macOS take the ports of outgoing connections: nobody takes a port in passing while
its server restarts."""
_PORT_ATTEMPTS = 20
_POLL_SECONDS = 0.005
_FAST_STOP_SECONDS = 60.0
_IMMEDIATE_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A launched postmaster and its guardian."""

    port: int
    """The TCP port it listens on."""
    process: subprocess.Popen[bytes]
    """The postmaster."""
    _guardian: Guardian

    def end(self, *, fast: bool = True) -> None:
        """Stop the server and return when it is gone. May be called again.

        Fast ends sessions and writes everything out; otherwise Postgres crashes, and recovers at its next start.
        """
        stages = [(signal.SIGQUIT, _IMMEDIATE_STOP_SECONDS), (signal.SIGKILL, _IMMEDIATE_STOP_SECONDS)]
        if fast:
            stages.insert(0, (signal.SIGINT, _FAST_STOP_SECONDS))
        for number, seconds in stages:
            self.process.send_signal(number)  # does nothing when it has ended
            try:
                self.process.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                continue
        self._guardian.release()


def launch(
    data_dir: DataDir,
    binaries: Binaries,
    account: Account,
    *,
    port: int | None,
    settings: Mapping[str, str],
    password: str,
    ready_within: timedelta,
) -> ServerProcess:
    """Run the server on the port, or on a free one, and return when it answers.

    Raises PortInUseError when the port asked for is taken, StartError when the server does not come up.
    """
    for _ in range(_PORT_ATTEMPTS):
        candidate = secrets.choice(_FREE_PORTS) if port is None else port
        if _is_free(candidate):
            server = _spawn(data_dir, binaries, account, candidate, settings)
            try:
                _wait_until_ready(server, data_dir, password, ready_within)
            except PortInUseError:  # somebody took it between the look and the start
                server.end()
            except BaseException:
                server.end()
                raise
            else:
                return server
        if port is not None:
            break
    if port is None:
        raise PortInUseError(
            f"No free TCP port was found on {HOST} in {_PORT_ATTEMPTS} tries between {_FREE_PORTS.start} and "
            f"{_FREE_PORTS.stop}: choose one."
        )
    raise PortInUseError(f"Port {port} on {HOST} is taken: choose another, or let a free one be chosen.")


def dsn(port: int, password: str, dbname: str, user: str = SUPERUSER) -> str:
    """The connection string of a database, as superuser or another login."""
    # Loopback needs no encryption, and offering it costs a round trip.
    parameters = "sslmode=disable&gssencmode=disable"
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return f"postgresql://{login}@{HOST}:{port}/{quote(dbname, safe='')}?{parameters}"


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Postgres does
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _spawn(
    data_dir: DataDir, binaries: Binaries, account: Account, port: int, settings: Mapping[str, str]
) -> ServerProcess:
    options = [f"{name}={value}" for name, value in settings.items()]
    options += [f"listen_addresses={HOST}", f"port={port}", "unix_socket_directories=", postmaster.MARK]
    log = data_dir.fresh_log()
    try:
        with account.reaching(data_dir.cluster) as (path, fds):
            command: list[str | Path] = [binaries.program("postgres"), "-D", path]
            for option in options:
                command += ["-c", option]
            try:
                process = account.spawn(command, output=log, pass_fds=fds)
            except OSError as error:
                raise StartError(f"{binaries.program('postgres')} cannot be executed: {error.strerror}.") from error
    finally:
        os.close(log)
    try:
        return ServerProcess(port, process, guardian.watch(process.pid, account))
    except BaseException:
        process.kill()
        process.wait()
        raise


def _wait_until_ready(server: ServerProcess, data_dir: DataDir, password: str, ready_within: timedelta) -> None:
    deadline = time.monotonic() + ready_within.total_seconds()
    while True:
        try:
            exit_code = server.process.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        else:
            raise _failure(data_dir, f"ended with exit code {exit_code}")
        # Its own word first: connecting before it is ready would fill its log with refusals.
        pid_file = postmaster.read_pid_file(data_dir.cluster)
        if pid_file is not None and pid_file.pid == server.process.pid and pid_file.ready:
            break
        if time.monotonic() > deadline:
            raise _failure(data_dir, f"did not answer within {ready_within.total_seconds():g} s")
    try:
        psycopg.connect(dsn(server.port, password, "postgres"), connect_timeout=10).close()
    except psycopg.Error as error:
        raise StartError(
            f"The Postgres in {data_dir.path} is up and refuses the superuser: {error} If it is the password: put the "
            f"file superuser_password back that was made with it, or remove {data_dir.path} to begin with an empty one."
        ) from error


def _failure(data_dir: DataDir, what: str) -> StartError:
    tail = data_dir.log_tail()
    kind = PortInUseError if "Address already in use" in tail else StartError
    return kind(
        f"The Postgres in {data_dir.path} {what}. The end of its log, {data_dir.log}:\n{tail}\n"
        f"Put right what it names and start again, or remove {data_dir.path} to begin with an empty one."
    )
