"""Turns between gateways, where the exchange itself fails."""

from __future__ import annotations

import pytest

from rowcall.errors import RowcallError
from rowcall.queue.model import ORDER_STRIDE
from rowcall.v1.error_reason_pb2 import ErrorReason
from tests.fix_queue import PostgresQueue


async def test_what_could_not_be_told_is_told_the_next_time(queue: PostgresQueue) -> None:
    async with queue.another() as gateway:
        store = gateway.store
        await queue.submit(*(queue.call() for _ in range(5)), store=store)
        await queue.admin.execute("alter function rowcall.exchange_turns rename to elsewhere")
        with pytest.raises(RowcallError) as error:
            await store.exchange_turns()
        await queue.admin.execute("alter function rowcall.elsewhere rename to exchange_turns")

        assert error.value.reason == ErrorReason.ERROR_REASON_SCHEMA_MISMATCH
        assert await store.exchange_turns() == 1
    assert await queue.value("select last_key from rowcall.turn where tenant = 'acme'") == 5 * ORDER_STRIDE
