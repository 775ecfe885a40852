"""tools/sql_places.py: SQL is found wherever it hides, and prose is left alone."""

from pathlib import Path

import pytest

from tools import sql_places


@pytest.mark.parametrize(
    "source",
    [
        'cursor.execute("select job_id from rowcall.job_live")',
        'QUERY = """\n  -- the next jobs\n  UPDATE rowcall.job_live set state = 1\n"""',
        'connection.execute(f"notify {channel}")',
        'connection.execute(f"select * from {table}")',
        'x = b"insert into t values (1)"',
        'run("listen settled")',
        'run("with picked as (select 1) select 1")',
        'run("create index concurrently i on t (a)")',
        'run("create unique index i on t (a)")',
        'run("set local synchronous_commit = off")',
        'run("select pg_notify($1, $2)")',
    ],
)
def test_statement_is_found(source: str) -> None:
    assert list(sql_places.statements(source))


@pytest.mark.parametrize(
    "source",
    [
        '"""Select rows from the queue: create table is not ours."""',
        'def f():\n    """Delete from the cache what is old."""\n    return 1',
        'log.info("select a shard")',
        'raise ValueError("update the image and set the tenant")',
        'help = "Create the tables; drop nothing"',
        'verb = "listen"',
    ],
)
def test_prose_is_not_sql(source: str) -> None:
    assert list(sql_places.statements(source)) == []


def test_only_the_packages_that_own_tables_may_hold_sql(tmp_path: Path) -> None:
    statement = 'STATEMENT = "delete from rowcall.job_live"\n'
    for place in (
        "libs/common/src/rowcall/queue/postgres/claim.py",
        "libs/common/src/rowcall/sharding/router.py",
        "libs/common/src/rowcall/migrations/runner.py",
        "libs/common/src/rowcall/queue_names.py",
        "services/gateway/src/rowcall_gateway/calls/job_calls.py",
    ):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(statement)
    (tmp_path / "services/gateway/src/rowcall_gateway/claim.sql").write_text("select 1")

    assert [line.split(": ")[0] for line in sql_places.misplaced(tmp_path)] == [
        "libs/common/src/rowcall/queue_names.py:1",
        "services/gateway/src/rowcall_gateway/calls/job_calls.py:1",
        "services/gateway/src/rowcall_gateway/claim.sql",
    ]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("import psycopg", "import psycopg"),
        ("from psycopg_pool import AsyncConnectionPool", "import psycopg_pool.AsyncConnectionPool"),
        ("from rowcall.queue import postgres", "import rowcall.queue.postgres"),
        ("from rowcall.queue.postgres.work import LOST_LIMIT", "import rowcall.queue.postgres.work.LOST_LIMIT"),
        ("from tests.support import postgres_probe", "import tests.support.postgres_probe"),
        ("from tests.fix_queue import PostgresQueue", "import tests.fix_queue.PostgresQueue"),
        ("def late():\n    import psycopg.errors", "import psycopg.errors"),
        ('queue.run("select count(*) from rowcall.job")', "select count(*) from rowcall.job"),
    ],
)
def test_the_conformance_suite_takes_no_side(tmp_path: Path, line: str, text: str) -> None:
    path = tmp_path / sql_places.NEUTRAL / "test_claim.py"
    path.parent.mkdir(parents=True)
    path.write_text(f"{line}\n")
    [found] = sql_places.taking_sides(tmp_path)
    assert found.startswith(f"{sql_places.NEUTRAL}/test_claim.py:")
    assert found.endswith(f": {text}")
    assert list(sql_places.misplaced(tmp_path)) == [], "other tests may do as they like"


def test_what_the_conformance_suite_may_import(tmp_path: Path) -> None:
    path = tmp_path / sql_places.NEUTRAL / "test_claim.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from rowcall.queue.protocol import WorkQueue\nfrom tests.support.probe import Probe\n"
        'def implementation(postgres_implementation):\n    """Select one from those there are."""\n'
    )
    assert list(sql_places.taking_sides(tmp_path)) == []
