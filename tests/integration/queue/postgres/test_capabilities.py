"""What of its server a shard does without is found at joining, told in one line, and not asked for again."""

from __future__ import annotations

import struct
from typing import Any

import psycopg
import pytest
import structlog

from rowcall.queue.choice import queue_of
from rowcall.settings import ClusterSettings
from rowcall.sharding import Shard
from tests.fix_queue import PostgresQueue
from tests.support.proxy import Link, Proxy, address_of
from tests.support.queues import NO_GRACE

LACKING = "the shard's server is used without all that sharpens"
COMPLETE = "the shard's server gives all that is made use of"


async def told(queue: PostgresQueue, dsn: str | None = None, **settings: Any) -> dict[str, Any]:
    """The one line that a worker that joins writes."""
    made = ClusterSettings(catalogue="postgresql:///none", shards={"a": dsn or queue.logins.worker}, **settings)
    with structlog.testing.capture_logs() as lines:
        await queue_of(Shard("a", made, service="test", workloads=()), made).check()
    [line] = lines
    return dict(line)


@pytest.mark.straight("through a pooler the line says so")
async def test_a_server_that_gives_everything_is_told_in_one_line(queue: PostgresQueue) -> None:
    line = await told(queue)
    assert (line["event"], line["log_level"], line["shard"]) == (COMPLETE, "info", "a")
    version = (await queue.value("select current_setting('server_version')")).split()[0]
    assert line["version"] == version
    assert line["durability"] == "synchronous_commit = on, without a synchronous standby"
    assert await queue.value("select lacks from rowcall.shard_info") == []


@pytest.mark.straight("through a pooler more is lacking")
@pytest.mark.parametrize(
    ("revoked", "name", "lack", "means"),
    [
        (
            "execute on function pg_current_wal_lsn()",
            "pg_current_wal_lsn()",
            "timeline",
            "the promotion of a standby is not noticed",
        ),
        (
            "execute on function pg_walfile_name(pg_lsn)",
            "pg_walfile_name(pg_lsn)",
            "timeline",
            "the promotion of a standby is not noticed",
        ),
        (
            "execute on function pg_postmaster_start_time()",
            "pg_postmaster_start_time()",
            "start",
            "a restart is not noticed",
        ),
        ("select on pg_locks", "pg_locks", "locks", "when its lease is over, not within 3 s"),
        ("execute on function pg_notify(text, text)", "pg_notify(text, text)", None, "jobs begin up to a poll later"),
    ],
)
async def test_what_is_withheld_is_named_with_what_it_means(
    queue: PostgresQueue, revoked: str, name: str, lack: str | None, means: str
) -> None:
    await queue.admin.execute(f"revoke {revoked} from public".encode())
    line = await told(queue)
    assert (line["event"], line["log_level"]) == (LACKING, "warning")
    [said] = line["lacks"]
    assert name in said
    assert means in said
    assert await queue.value("select lacks from rowcall.shard_info") == ([] if lack is None else [lack])
    # It is there again for whoever joins next.
    await queue.admin.execute(f"grant {revoked} to public".encode())
    assert (await told(queue))["event"] == COMPLETE
    assert await queue.value("select lacks from rowcall.shard_info") == []


@pytest.mark.parametrize(
    ("lack", "function"), [("timeline", "server_timeline"), ("start", "server_start"), ("locks", "session_locks")]
)
async def test_upkeep_does_not_ask_for_what_is_known_to_be_refused(
    queue: PostgresQueue, lack: str, function: str
) -> None:
    await queue.admin.execute(
        f"""
        create or replace function rowcall.{function}()
        returns {"bigint[]" if lack == "locks" else "timestamptz" if lack == "start" else "text"}
        language plpgsql as $$ begin raise exception 'asked'; end $$
        """.encode()
    )
    with pytest.raises(psycopg.errors.RaiseException):
        await queue.admin.execute("select rowcall.bury_workers('0', null)")
    await queue.admin.execute("update rowcall.shard_info set lacks = array[%s]", [lack])
    dead = await queue.worker("dead")
    await queue.die(dead)
    assert await queue.work.bury_workers(NO_GRACE) == [(dead, "dead")]


class _Pooler(Proxy):
    """Says of each session that it has another process than the server's, as poolers do."""

    def link(self) -> Link:
        """See Proxy.link."""
        return _Renamed()


class _Renamed(Link):
    def downstream(self, data: bytes) -> bytes:
        """BackendKeyData: "K", its length, the process, a key."""
        at = data.find(b"K\x00\x00\x00\x0c")
        return data if at < 0 else data[: at + 5] + struct.pack("!i", 7) + data[at + 9 :]


@pytest.mark.straight("it brings a pooler of its own")
async def test_a_pooler_that_the_settings_do_not_tell_of_is_named(queue: PostgresQueue) -> None:
    with _Pooler(*address_of(queue.logins.worker)) as pooler:
        line = await told(queue, pooler.through(queue.logins.worker))
    [said] = line["lacks"]
    assert "a pooler is in the way" in said
    assert "ROWCALL_TRANSACTION_POOLER" in said


@pytest.mark.straight("it sets what is found there")
@pytest.mark.parametrize(
    ("settings", "means"),
    [
        ({"hints": False}, ["hints are switched off"]),
        ({"prepare_threshold": -1}, ["nothing is prepared"]),
        ({"transaction_pooler": True}, ["a pooler in transaction mode is set", "nothing is prepared"]),
    ],
)
async def test_what_the_settings_do_without_is_named_too(
    queue: PostgresQueue, settings: dict[str, Any], means: list[str]
) -> None:
    line = await told(queue, **settings)
    assert [said.partition(":")[0] for said in line["lacks"]] == means


@pytest.mark.straight("these logins are of no pooler")
@pytest.mark.parametrize("login", ["a superuser", "a member of rowcall_owner"])
async def test_a_login_that_may_do_more_than_its_service_needs_is_warned_of(queue: PostgresQueue, login: str) -> None:
    dsn = queue.logins.admin
    if login != "a superuser":
        await queue.admin.execute("grant rowcall_owner to test_nobody")
        dsn = queue.logins.straight("test_nobody")
    made = ClusterSettings(catalogue="postgresql:///none", shards={"a": dsn})
    try:
        with structlog.testing.capture_logs() as lines:
            await queue_of(Shard("a", made, service="test", workloads=()), made).check()
    finally:
        await queue.admin.execute("revoke rowcall_owner from test_nobody")
    assert [(line["log_level"], line.get("login_is")) for line in lines] == [("info", None), ("warning", login)]
    assert "granted rowcall_gateway or rowcall_worker and nothing else" in lines[1]["event"]


async def test_a_gateway_finds_it_too(queue: PostgresQueue) -> None:
    line = await told(queue, queue.logins.gateway, **queue.logins.access.settings)
    assert line["event"] in (COMPLETE, LACKING)
