"""The audit on Postgres: places follow commits and not ids, restores do not stop it, and what is old is cut off signed.

Hashes that the database makes are made again in Python (`rowcall.audit.chain`), for every kind of value.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from rowcall.audit.chain import Walk
from rowcall.audit.model import Act, Checkpoint
from rowcall.audit.signing import is_signed, sign
from rowcall.errors import RowcallError, reason_name
from rowcall_worker.upkeep.sealing import Sealing
from tests.fix_queue import Logins, PostgresQueue
from tests.support.queues import METHOD
from tests.support.waiting import until

KEY = b"k" * 32
RECORD = "select rowcall.record_action(%s, 'acme', 'job.cancel', %s, null, null)"


async def record(queue: PostgresQueue, target: str, act: str = '{"actor": "ann"}') -> None:
    await queue.admin.execute(RECORD, [act, target])


async def seal(queue: PostgresQueue, place: int) -> None:
    """Until the chain has come to a place."""

    async def there() -> bool:
        await queue.work.seal_audit(1000)
        return (await queue.operators.audit_head("acme")).place >= place

    await until(there)


async def targets(queue: PostgresQueue) -> list[str]:
    """In the order of the chain."""
    return [
        each.content.target for each in await queue.operators.audit_chain("acme", after=0, limit=100) if each.content
    ]


async def test_an_entry_that_is_committed_late_has_a_late_place_and_a_low_id(
    queue: PostgresQueue, logins: Logins
) -> None:
    """Were places given by id, it would have to go in between, where the chain is hashed already."""
    async with await psycopg.AsyncConnection.connect(logins.admin) as slow:
        await slow.execute(RECORD, ["{}", "slow"])
        await record(queue, "quick")
        assert await queue.work.seal_audit(1000) == [], "as long as one may come before it"
        head = await queue.operators.audit_head("acme")
        assert (head.place, head.unsealed) == (0, 1)
        assert head.unsealed_since is not None
        await slow.commit()
    await seal(queue, 2)
    await record(queue, "next")
    await seal(queue, 3)
    assert (await targets(queue))[2] == "next"
    assert {*(await targets(queue))[:2]} == {"slow", "quick"}
    assert [each.content.target for each in await queue.operators.audit_entries("acme", limit=9)] == [
        "next",
        "quick",
        "slow",
    ]


async def test_python_makes_the_hashes_of_the_database(queue: PostgresQueue) -> None:
    for number, act in enumerate(
        (
            "{}",
            '{"actor": "", "reason": "-"}',
            '{"actor": "Zoë 🦊", "credential": "jwt https://idp", "roles": "admin,operator", "reason": "ü\\n;3:a", "trace_id": "00"}',
        )
    ):
        await record(queue, f"queues/{number}", act)
    await queue.admin.execute(
        "select rowcall.record_action(null, 'acme', 'tenant.weight', 't', jsonb_build_object('a', 1.50), jsonb_build_object('é', null))"
    )
    await seal(queue, 4)
    assert list(Walk("acme").over(await queue.operators.audit_chain("acme", after=0, limit=10))) == []


async def test_a_database_that_was_restored_into_another_server_goes_on_sealing(queue: PostgresQueue) -> None:
    """There transactions count from the beginning again."""
    await record(queue, "before")
    await seal(queue, 1)
    await queue.admin.execute("update rowcall.audit_sealer set frontier = '9000000000000'")
    await queue.admin.execute("update rowcall.audit set xid = '8999999999999'")
    await record(queue, "after")
    await seal(queue, 2)
    assert await targets(queue) == ["before", "after"]


async def test_what_was_sealed_long_ago_is_cut_off_and_the_cut_is_signed(queue: PostgresQueue) -> None:
    for number in range(6):
        await record(queue, f"old {number}")
    await seal(queue, 6)
    last = (await queue.operators.audit_head("acme")).hash
    await queue.admin.execute("update rowcall.audit_seal set sealed_at = sealed_at - interval '500 days'")
    await record(queue, "new")
    await seal(queue, 7)
    await Sealing(queue.work, shard="a", retention=timedelta(days=400), key=KEY).cut()
    assert await targets(queue) == ["new"]
    checkpoint = await queue.operators.audit_checkpoint("acme")
    assert checkpoint is not None
    assert (checkpoint.place, checkpoint.hash) == (6, last)
    assert is_signed(KEY, "acme", checkpoint)
    walk = Walk("acme", place=checkpoint.place, hash_=checkpoint.hash)
    assert list(walk.over(await queue.operators.audit_chain("acme", after=6, limit=10))) == []
    await record(queue, "newer")
    await seal(queue, 8)
    assert await targets(queue) == ["new", "newer"], "the chain goes on where it was"


async def test_without_a_key_nothing_is_cut_off(queue: PostgresQueue) -> None:
    await record(queue, "old")
    await seal(queue, 1)
    await queue.admin.execute("update rowcall.audit_seal set sealed_at = sealed_at - interval '500 days'")
    await Sealing(queue.work, shard="a", retention=timedelta(days=400), key=None).cut()
    assert await targets(queue) == ["old"]


async def test_a_cut_is_refused_where_the_chain_is_not_what_was_signed(queue: PostgresQueue) -> None:
    await record(queue, "old")
    await seal(queue, 1)
    now = datetime.now(UTC)
    assert await queue.work.cut_audit("acme", Checkpoint(1, bytes(32), now, sign(KEY, "acme", 1, bytes(32), now))) == -1
    assert await targets(queue) == ["old"]


@pytest.mark.parametrize("user", ["gateway", "worker"])
@pytest.mark.parametrize(
    "statement",
    [
        "insert into rowcall.audit (tenant, action, target) values ('acme', 'x', 'x')",
        "update rowcall.audit set actor = 'eve'",
        "delete from rowcall.audit",
        "delete from rowcall.audit_seal",
        "update rowcall.audit_sealer set frontier = '0'",
        "select rowcall.record_action(null, 'acme', 'x', 'x', null, null)",
        "select rowcall.cancel_job('acme', gen_random_uuid(), 'e', false)",
    ],
)
async def test_no_service_writes_it_but_by_what_it_does(
    logins: Logins, queue: PostgresQueue, user: str, statement: str
) -> None:
    async with await psycopg.AsyncConnection.connect(getattr(logins, user), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(statement.encode())


async def test_an_action_that_is_rolled_back_leaves_no_entry_and_no_gap(queue: PostgresQueue, logins: Logins) -> None:
    async with await psycopg.AsyncConnection.connect(logins.admin) as undone:
        await undone.execute(RECORD, ["{}", "undone"])
        await undone.rollback()
    await record(queue, "done")
    await seal(queue, 1)
    assert await targets(queue) == ["done"]


async def test_what_cannot_be_recorded_is_not_done(queue: PostgresQueue) -> None:
    """The entry is written by what is done, in its transaction: without it nothing of it stays."""
    call = queue.call()
    await queue.submit(call)
    await queue.admin.execute("alter table rowcall.audit add constraint nothing_goes check (id < 0) not valid")
    refused = [
        queue.store.cancel("acme", call.job_id),
        queue.operators.pause("method", METHOD, by="ann", note=None),
        queue.operators.pause("tenant", "acme", by="ann", note=None),
        queue.operators.weigh("acme", 3),
        queue.operators.record_reads("acme", [call.job_id], Act(actor="ann")),
    ]
    for action in refused:
        with pytest.raises(RowcallError) as failed:
            await action
        assert reason_name(failed.value.reason) == "INTERNAL"
    assert [each.content for each in await queue.operators.audit_entries("acme", limit=9)] == []
    [job] = await queue.claim(await queue.worker())
    assert job.job_id == call.job_id, "neither cancelled nor paused"
    row = await (await queue.admin.execute("select weight from rowcall.tenant_route where tenant = 'acme'")).fetchone()
    assert row == (1.0,)


class Told(Sealing):
    """Keeps what is told of instead of telling it."""

    def __init__(self, queue: PostgresQueue) -> None:
        self.now = 0.0
        self.told: list[dict[str, tuple[int, bytes]]] = []
        super().__init__(queue.work, shard="a", retention=timedelta(days=400), key=None, clock=lambda: self.now)

    def tell(self) -> None:
        """See Sealing.tell."""
        self.told.append(dict(self._grown))
        super().tell()


async def test_heads_are_told_once_a_minute(queue: PostgresQueue) -> None:
    sealing = Told(queue)

    async def grown(place: int) -> None:
        async def there() -> bool:
            await sealing.seal()
            return (await queue.operators.audit_head("acme")).place >= place

        await until(there)

    await record(queue, "one")
    await grown(1)
    assert len(sealing.told) == 1
    await record(queue, "two")
    await grown(2)
    assert len(sealing.told) == 1, "a minute is not over"
    sealing.now = 61.0
    await sealing.seal()
    head = await queue.operators.audit_head("acme")
    assert sealing.told[1:] == [{"acme": (2, head.hash)}]
    sealing.now = 200.0
    await sealing.seal()
    assert len(sealing.told) == 2, "nothing has grown"


async def test_an_act_of_a_gateway_is_kept_whole(queue: PostgresQueue) -> None:
    call = queue.call()
    await queue.submit(call)
    await queue.store.cancel("acme", call.job_id, act=Act(actor='a"b\\', reason="ü"))
    [entry] = await queue.operators.audit_entries("acme", limit=2)
    assert (entry.content.actor, entry.content.reason) == ('a"b\\', "ü")
