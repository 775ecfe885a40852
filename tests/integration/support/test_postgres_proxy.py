"""The proxy that loses what commits are answered: the server has done it, the client does not know."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.support.postgres_proxy import PostgresProxy

INSERT = "insert into t values (1)"


@pytest.fixture
def dsn(database: Callable[[], str]) -> str:
    made = database()
    with psycopg.connect(made) as connection:
        connection.execute("create table t (x int); alter table t add constraint small check (x < 10)")
    return made


def rows(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select count(*) from t").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("prepare", [True, False])
def test_what_a_commit_is_answered_is_lost_and_the_commit_stays(dsn: str, prepare: bool) -> None:
    with PostgresProxy(dsn, statements="insert into t", drop=1) as proxy:
        with psycopg.connect(proxy.through(dsn), autocommit=True) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
            with pytest.raises(psycopg.OperationalError) as error:
                connection.execute(INSERT, prepare=prepare)
            assert error.value.sqlstate is None
            assert connection.broken
        assert (proxy.commits.commits, proxy.commits.dropped, proxy.commits.refused) == (1, 1, 0)
        assert proxy.counts.cut == 1
    assert rows(dsn) == 1


def test_in_a_transaction_it_is_the_answer_to_the_commit_that_is_lost(dsn: str) -> None:
    with PostgresProxy(dsn, statements="insert into t", drop=1) as proxy:
        with psycopg.connect(proxy.through(dsn), autocommit=True) as connection:
            with connection.transaction(force_rollback=True):
                connection.execute(INSERT)
            with pytest.raises(psycopg.errors.CheckViolation):
                connection.execute("insert into t values (10)")
            assert (proxy.commits.refused, proxy.commits.dropped) == (2, 0), "nothing was committed: it is passed on"
            connection.execute("begin")
            connection.execute(INSERT)
            assert connection.execute("select count(*) from t").fetchone() == (1,)
            with pytest.raises(psycopg.OperationalError):
                connection.execute("commit")
        assert (proxy.commits.commits, proxy.commits.dropped) == (1, 1)
    assert rows(dsn) == 1


def test_a_share_of_the_answers_is_lost_and_the_seed_says_which(dsn: str) -> None:
    def run(seed: int) -> list[bool]:
        told = []
        with PostgresProxy(dsn, statements="insert into t", drop=0.3, seed=seed) as proxy:
            for _ in range(40):
                with psycopg.connect(proxy.through(dsn), autocommit=True) as connection:
                    try:
                        connection.execute(INSERT)
                        told.append(True)
                    except psycopg.OperationalError:
                        told.append(False)
            assert proxy.commits.commits == 40
            assert proxy.commits.dropped == told.count(False)
        return told

    first = run(7)
    assert 3 <= first.count(False) <= 25
    assert run(7) == first
    assert rows(dsn) == 80


def test_cancel_requests_are_counted(dsn: str) -> None:
    with PostgresProxy(dsn) as proxy, psycopg.connect(proxy.through(dsn)) as connection:
        connection.cancel_safe()
        assert proxy.commits.cancels == 1
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_client_that_asks_for_encryption_first_is_followed_too(dsn: str) -> None:
    with PostgresProxy(dsn, statements="insert into t", drop=1) as proxy:
        through = psycopg.conninfo.make_conninfo(proxy.through(dsn), sslmode="prefer")
        with psycopg.connect(through, autocommit=True) as connection, pytest.raises(psycopg.OperationalError):
            connection.execute(INSERT)
        assert proxy.commits.dropped == 1
