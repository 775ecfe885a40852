"""A running embedded Postgres as its owner sees it: data, databases, settings, access, and what goes wrong."""

from __future__ import annotations

import secrets
import socket
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from rowcall import embedded
from rowcall.embedded import Postgres, process


def test_data_outlives_stop_and_start(tmp_path: Path) -> None:
    with embedded.start(tmp_path / "data") as server:
        server.create_database("kept")
        with psycopg.connect(server.dsn("kept")) as connection:
            connection.execute("create table note (text text)")
            connection.execute("insert into note values ('still here')")
    assert not server.is_running

    with embedded.start(tmp_path / "data") as server, psycopg.connect(server.dsn("kept")) as connection:
        assert connection.execute("select text from note").fetchall() == [("still here",)]


def test_the_port_can_be_chosen(data_dir: Path) -> None:
    with embedded.start(data_dir, durable=False) as server:
        port = server.port

    with embedded.start(data_dir, durable=False, port=port) as server:
        assert server.port == port
        assert f"@127.0.0.1:{port}/" in server.dsn("postgres")


def test_a_taken_port_is_named(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(embedded.PortInUseError, match=f"Port {port} on 127.0.0.1 is taken: choose another"):
            embedded.start(data_dir, durable=False, port=port)


def test_a_port_taken_between_the_look_and_the_start_is_given_up_for_another(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1]]
        choose = secrets.choice
        monkeypatch.setattr(process, "_is_free", lambda port: True)
        monkeypatch.setattr(secrets, "choice", lambda free: ports.pop() if ports else choose(free))

        with embedded.start(data_dir, durable=False) as server:
            assert ports == []
            assert server.port != taken.getsockname()[1]


def test_settings_reach_the_server(data_dir: Path) -> None:
    with (
        embedded.start(data_dir, durable=False, settings={"work_mem": "7MB"}) as server,
        psycopg.connect(server.dsn("postgres")) as connection,
    ):
        shown = {
            name: connection.execute("select current_setting(%s)", [name]).fetchone()
            for name in ("work_mem", "fsync", "synchronous_commit", "server_encoding", "max_connections")
        }
    assert shown == {
        "work_mem": ("7MB",),
        "fsync": ("off",),
        "synchronous_commit": ("on",),
        "server_encoding": ("UTF8",),
        "max_connections": ("200",),
    }


def test_a_durable_server_flushes(tmp_path: Path) -> None:
    with embedded.start(tmp_path / "data") as server, psycopg.connect(server.dsn("postgres")) as connection:
        flushing = connection.execute(
            "select current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit')"
        ).fetchone()
    assert flushing == ("on", "on", "on")


def test_a_server_that_does_not_come_up_says_why_and_gives_the_directory_back(data_dir: Path) -> None:
    with pytest.raises(embedded.StartError) as caught:
        embedded.start(data_dir, durable=False, settings={"no_such_setting": "1"})
    assert 'unrecognized configuration parameter "no_such_setting"' in str(caught.value)
    assert str(data_dir / "postgres.log") in str(caught.value)

    embedded.start(data_dir, durable=False).stop()


def test_letters_beyond_ascii_have_cases(postgres: Postgres) -> None:
    with psycopg.connect(postgres.dsn("postgres")) as connection:
        assert connection.execute("select lower('ÄÖÉ'), upper('щ')").fetchone() == ("äöé", "Щ")


def test_databases_are_created_once_by_however_many_callers(postgres: Postgres) -> None:
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(postgres.create_database, 'odd "name" %20/?') for _ in range(16)]:
            done.result()

    with psycopg.connect(postgres.dsn('odd "name" %20/?')) as connection:
        assert connection.execute("select current_database()").fetchone() == ('odd "name" %20/?',)


def test_databases_are_listed_without_those_postgres_makes_itself(data_dir: Path) -> None:
    with embedded.start(data_dir, durable=False) as server:
        assert server.databases() == []
        server.create_database("two")
        server.create_database("one")
        assert server.databases() == ["one", "two"]


def test_nobody_gets_in_without_the_password(postgres: Postgres) -> None:
    for password in ("", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(host="127.0.0.1", port=postgres.port, user="postgres", password=password)


def test_secrets_and_data_are_the_owners_alone(postgres: Postgres) -> None:
    modes = {
        name: stat.S_IMODE((postgres.data_dir / name).stat().st_mode)
        for name in ("superuser_password", "postgres.log", "cluster")
    }
    assert modes == {"superuser_password": 0o600, "postgres.log": 0o600, "cluster": 0o700}
    assert postgres.password not in repr(postgres)


def test_contents_of_rows_do_not_reach_the_log(postgres: Postgres, database: Callable[[], str]) -> None:
    with psycopg.connect(database(), autocommit=True) as connection:
        connection.execute("create table payload (id int primary key, bytes text check (length(bytes) < 5))")
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("insert into payload values (1, 'the-secret-payload')")

    log = postgres.log.read_text()
    assert 'violates check constraint "payload_bytes_check"' in log
    assert "the-secret-payload" not in log


def test_data_of_another_major_version_is_refused(data_dir: Path) -> None:
    (data_dir / "cluster" / "PG_VERSION").write_text("14\n")

    with pytest.raises(embedded.DataDirError, match=r"made by Postgres 14, and .* is Postgres \d+\.\d+: name the"):
        embedded.start(data_dir)


def test_a_lost_password_is_explained(data_dir: Path) -> None:
    (data_dir / "superuser_password").unlink()

    with pytest.raises(embedded.DataDirError, match=r"superuser_password is missing.*put it back, or remove"):
        embedded.start(data_dir)


def test_a_password_of_another_cluster_is_explained(data_dir: Path) -> None:
    (data_dir / "superuser_password").write_text("another")

    with pytest.raises(embedded.StartError, match=r"(?s)refuses the superuser.*put the file superuser_password back"):
        embedded.start(data_dir)

    assert not (data_dir / "cluster" / "postmaster.pid").exists()


def test_a_cluster_whose_making_was_interrupted_is_made_again(data_dir: Path) -> None:
    (data_dir / "cluster").rename(data_dir / "cluster.unfinished")

    with embedded.start(data_dir, durable=False) as server:
        assert server.is_running
    assert not (data_dir / "cluster.unfinished").exists()


def test_stop_may_be_called_again_and_the_directory_used_again(data_dir: Path) -> None:
    server = embedded.start(data_dir, durable=False)
    server.stop()
    server.stop("immediate")

    embedded.start(data_dir, durable=False).stop()


def test_a_login_is_given_a_new_password_each_time_and_comes_to_what_it_is_granted(postgres: Postgres) -> None:
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute("create role of_logins nologin")
        postgres.create_database("open to all")
        postgres.create_database("closed", public=False)
        first = postgres.create_login('odd "login" %20/?', roles=["of_logins"])
        second = postgres.create_login('odd "login" %20/?', roles=["of_logins"])
        assert first.password != second.password
        assert second.password not in repr(second)
        with psycopg.connect(postgres.dsn("open to all", second)) as connection:
            row = connection.execute("select session_user::text, pg_has_role('of_logins', 'usage')").fetchone()
            assert row == ('odd "login" %20/?', True)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(postgres.dsn("open to all", first))
        with pytest.raises(psycopg.OperationalError, match='permission denied for database "closed"'):
            psycopg.connect(postgres.dsn("closed", second))
        postgres.create_database("closed", owner=second.name, public=False)
        with psycopg.connect(postgres.dsn("closed", second)) as connection:
            connection.execute("create table mine ()")
            assert connection.execute("select rolsuper from pg_roles where rolname = session_user").fetchone() == (
                False,
            )
        for name in ("open to all", "closed"):
            admin.execute(f'drop database "{name}"'.encode())
        admin.execute("drop role of_logins")
        admin.execute('drop role "odd ""login"" %20/?"')
