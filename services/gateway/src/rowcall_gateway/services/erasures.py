"""Everything of a tenant erased, a part with each call, until a receipt says that nothing is left. Called by `tenants`.

Who calls goes on calling: what was erased stays so, whoever is killed meanwhile, and any gateway goes on with it.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration

from rowcall.errors import RowcallError
from rowcall.queue.tenants import ErasurePhase
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.tenant_service_pb2 import EraseTenantResponse, Erasure
from rowcall_gateway.edge.deadlines import margin
from rowcall_gateway.edge.failures import not_known
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.services.homes import Home, erased_rows, erasure_of

PART: Final = 1000
"""Rows of a kind that one statement erases."""

SECONDS: Final = 2.0
"""That one call erases for."""

COUNTED: Final = 10_000
"""How far there is counted what there is to erase; tenant_service.proto says so."""

_AGAIN: Final = timedelta(seconds=1)
_REMAINING: Final = {
    ErasurePhase.ERASING: "There is more to erase.",
    ErasurePhase.RUNNING: "Jobs of it still run: they were asked to end, and are ended 30 s after the beginning.",
    ErasurePhase.ANSWERED: "The answers of jobs that were cancelled are kept for 5 s, for whoever waits for them.",
    ErasurePhase.SETTLING: "What was on its way when the tenant was closed may still come, for 10 s from the beginning.",
    ErasurePhase.OPEN: "A transaction in the shard's server is open that began before, and may still write something of it.",
    ErasurePhase.UNSEALED: "Entries of its audit are not sealed yet: a transaction in the shard's server is open that began before them.",
}
_KEPT: Final = (
    "Its name with shard and number, so that it stays closed, and this receipt.",
    "The chain of its audit: places, digests and hashes, without what the entries said, but for which of them were erased.",
    "What the audit of the system says: who erased it, and what else admins did that names it.",
    "Bounds on what is let in that name it.",
    "What is not Rowcall's to erase: backups, archives and standbys of the databases, their dead rows until the next vacuum, logs, and traces.",
)


class Erasures:
    """Erases tenants."""

    async def preview(self, home: Home) -> EraseTenantResponse:
        """What there is to erase."""
        counts = await home.link.tenants.erasable(home.route.tenant, COUNTED)
        made = Erasure(name=home.name, shard=home.route.shard, erased=erased_rows(counts), kept=await _kept(home))
        return EraseTenantResponse(erasure=made)

    async def erase(self, call: IncomingCall, home: Home, note: str) -> EraseTenantResponse:
        """Goes on with an erasure, or begins one.

        Raises:
            RowcallError: NOT_KNOWN, or what the shard raises.
        """
        remaining = call.remaining()
        until = time.monotonic() + (
            SECONDS if remaining is None else min(SECONDS, max(remaining - margin(remaining), 0))
        )
        while True:
            erased = await home.link.tenants.erase(
                home.route.tenant, limit=PART, by=call.principal.actor, note=note or None, act=call.act
            )
            if erased is None:
                raise not_known("tenant", home.name)
            home.link.cancelled(home.route.tenant, erased.cancelled)
            if erased.phase is not ErasurePhase.ERASING or time.monotonic() >= until:
                break
        made = erasure_of(home.route, erased.erasure)
        made.remaining = _REMAINING.get(erased.phase, "")
        made.kept.extend(await _kept(home))
        if erased.phase is ErasurePhase.DONE:
            return EraseTenantResponse(done=True, erasure=made)
        delay = Duration()
        delay.FromTimedelta(timedelta(0) if erased.phase is ErasurePhase.ERASING else _AGAIN)
        return EraseTenantResponse(erasure=made, retry_delay=delay)

    async def reopen(self, call: IncomingCall, home: Home) -> None:
        """Opens a tenant again.

        Raises:
            RowcallError: TENANT_NOT_ERASED, NOT_KNOWN, or what the shard raises.
        """
        opened = await home.link.tenants.reopen(home.route.tenant, act=call.act)
        if opened is None:
            raise not_known("tenant", home.name)
        if not opened:
            raise RowcallError(
                ErrorReason.ERROR_REASON_TENANT_NOT_ERASED,
                "The tenant is not closed by an erasure, or its erasure is not done; then go on with EraseTenant first.",
                metadata={"name": home.name},
            )


async def _kept(home: Home) -> list[str]:
    tables = await home.link.tenants.own_tables()
    return [
        *_KEPT,
        *(f"Your own table {table}, which Rowcall may not touch: erase there what is of it." for table in tables),
    ]
