"""Killed servers, killed owners, and what the next start makes of what they left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from rowcall import embedded
from rowcall.embedded import account
from tests.fix_postgres import RestartablePostgres

OWNER = """
import sys
from pathlib import Path
from rowcall import embedded

server = embedded.start(Path(sys.argv[1]), durable=False)
print(server.pid, flush=True)
sys.stdin.readline()
"""

FORKING_OWNER = OWNER.replace(
    "print",
    """
import os

if (child := os.fork()) == 0:
    sys.exit()
os.waitpid(child, 0)
print""",
)


@contextmanager
def owner_of(data_dir: Path, script: str = OWNER) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that runs the Postgres in `data_dir` until it is told a line, and the server's process id."""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        try:
            assert owner.stdout is not None
            yield owner, int(owner.stdout.readline())
        finally:
            owner.kill()


def dismiss_guardian(owner: subprocess.Popen[str], server_pid: int) -> None:
    """Kill the process that would stop the server in its owner's place."""
    (guardian,) = [child for child in psutil.Process(owner.pid).children() if child.pid != server_pid]
    guardian.kill()


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ended(pid: int, within: float = 10.0) -> bool:
    """Whether the process ends within these seconds."""
    deadline = time.monotonic() + within
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not runs(pid)


def write(dsn: str, text: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("create table if not exists note (text text)")
        connection.execute("insert into note values (%s)", [text])


def read(dsn: str) -> list[tuple[str]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute("select text from note").fetchall()


def test_a_commit_outlives_the_kill_of_the_server(restartable_postgres: RestartablePostgres) -> None:
    dsn = restartable_postgres.dsn("postgres")
    write(dsn, "acknowledged")

    restartable_postgres.kill()
    assert (restartable_postgres.server.data_dir / "cluster" / "postmaster.pid").exists()
    restartable_postgres.start()

    assert read(dsn) == [("acknowledged",)]


def test_a_commit_outlives_an_immediate_stop(restartable_postgres: RestartablePostgres) -> None:
    dsn = restartable_postgres.dsn("postgres")
    write(dsn, "acknowledged")

    restartable_postgres.server.stop("immediate")
    restartable_postgres.start()

    assert read(dsn) == [("acknowledged",)]
    assert "automatic recovery in progress" in restartable_postgres.server.log.read_text()


def test_a_fast_stop_ends_sessions_and_leaves_nothing_to_recover(restartable_postgres: RestartablePostgres) -> None:
    with psycopg.connect(restartable_postgres.dsn("postgres")) as idle_in_transaction:
        idle_in_transaction.execute("select 1")
        restartable_postgres.stop()
        with pytest.raises(psycopg.OperationalError):
            idle_in_transaction.execute("select 1")
    restartable_postgres.start()

    assert "automatic recovery" not in restartable_postgres.server.log.read_text()


def test_a_session_that_hangs_after_the_kill_of_its_server_does_not_block_the_next_start(
    restartable_postgres: RestartablePostgres,
) -> None:
    with psycopg.connect(restartable_postgres.dsn("postgres")) as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        restartable_postgres.kill()
        assert runs(backend)

        restartable_postgres.start()

        assert not runs(backend)
        assert restartable_postgres.server.is_running


def test_a_leftover_pid_file_with_the_number_of_another_process_is_no_obstacle(
    restartable_postgres: RestartablePostgres,
) -> None:
    restartable_postgres.stop()
    pid_file = restartable_postgres.server.data_dir / "cluster" / "postmaster.pid"
    # Of the server's own account, or Postgres itself would know better.
    with account.choose(pid_file.parent).spawn(["sleep", "60"]) as bystander:
        pid_file.write_text(f"{bystander.pid}\n/somewhere\n1700000000\n5432\n\n127.0.0.1\n")

        restartable_postgres.start()

        assert restartable_postgres.server.is_running
        assert bystander.poll() is None
        bystander.kill()


def test_a_server_ends_with_its_owner(data_dir: Path) -> None:
    with owner_of(data_dir) as (owner, server_pid):
        dismiss_guardian(owner, server_pid)
        owner.communicate("go\n", timeout=20)
        assert owner.returncode == 0
    assert not runs(server_pid)
    assert not (data_dir / "cluster" / "postmaster.pid").exists()


def test_a_fork_of_the_owner_that_ends_takes_neither_server_nor_guardian_along(data_dir: Path) -> None:
    with owner_of(data_dir, FORKING_OWNER) as (owner, server_pid):
        assert runs(server_pid)
        owner.kill()
        assert ended(server_pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_guardian_stops_the_server_of_a_killed_owner(data_dir: Path, number: signal.Signals) -> None:
    with owner_of(data_dir) as (owner, server_pid):
        owner.send_signal(number)
        owner.wait(10)
        assert ended(server_pid)
    assert "received fast shutdown request" in (data_dir / "postgres.log").read_text()


def test_the_next_start_stops_a_server_that_outlived_owner_and_guardian(data_dir: Path) -> None:
    with owner_of(data_dir) as (owner, server_pid):
        dismiss_guardian(owner, server_pid)
        owner.kill()
        owner.wait(10)
        assert not ended(server_pid, within=0.3)

        with embedded.start(data_dir, durable=False) as server:
            assert server.pid != server_pid
            assert not runs(server_pid)
            assert "automatic recovery" not in server.log.read_text()


def test_a_live_owner_is_named(data_dir: Path) -> None:
    with owner_of(data_dir) as (owner, server_pid):
        with pytest.raises(
            embedded.DataDirInUseError,
            match=rf"belongs to another running process \(pid {owner.pid}\): stop that process, or use another",
        ):
            embedded.start(data_dir)
        assert runs(server_pid)


def test_a_server_started_by_hand_is_left_alone_and_named(data_dir: Path) -> None:
    with embedded.start(data_dir, durable=False) as server:
        port = server.port
    cluster = server.data_dir / "cluster"
    runner = account.choose(cluster)
    with runner.reaching(cluster) as (path, fds):
        command: list[str | Path] = [server.binaries.program("postgres"), "-D", path, "-p", str(port), "-k", ""]
        by_hand = runner.spawn(command, pass_fds=fds)
    try:
        deadline = time.monotonic() + 10
        while not (cluster / "postmaster.pid").exists() and time.monotonic() < deadline:
            time.sleep(0.01)

        with pytest.raises(
            embedded.DataDirInUseError, match=rf"did not start \(pid {by_hand.pid}\).*`pg_ctl -D {cluster} stop`"
        ):
            embedded.start(data_dir)

        assert by_hand.poll() is None
    finally:
        by_hand.send_signal(signal.SIGINT)
        by_hand.wait(20)
