"""What operators change of queues, methods and tenants: pauses and shares. Called by `queues`, `catalogue` and `tenants`.

A queue or method is one name on every shard: what is changed must be changed on all of them, and a call that could not is
refused and may be made again. A tenant lives on one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from rowcall.catalogue.model import JobMethod
from rowcall.errors import RowcallError
from rowcall.sharding import Router
from rowcall.sharding.faults import RETRY_AFTER
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.calls.drafts import check_text
from rowcall_gateway.edge.failures import not_known
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.edge.offered import Offered
from rowcall_gateway.services.homes import own_tenant
from rowcall_gateway.shards.everywhere import ask_everywhere, listed
from rowcall_gateway.shards.links import Links, ShardLink

Kind = Literal["queue", "method"]


class Changes:
    """Makes them where they belong."""

    def __init__(self, offered: Offered, router: Router, links: Links) -> None:
        self._offered = offered
        self._router = router
        self._links = links

    async def pause(self, call: IncomingCall, kind: Kind, name: str, note: str) -> None:
        """Pauses a queue or method on every shard. Pausing twice is pausing once.

        Raises:
            RowcallError: INVALID_REQUEST, NOT_KNOWN, or SHARD_UNAVAILABLE if it may not be paused on all.
        """
        check_text(note, "note")
        actor = call.principal.actor

        async def pause(link: ShardLink) -> bool:
            served = self._served(kind, name)
            if served is not None:
                # A shard that has not heard of it yet would run it as soon as it does.
                await link.store.publish(served)
            return await link.admin.pause(kind, name, by=actor, note=note or None, act=call.act)

        await self._everywhere(call, kind, name, pause, "paused")

    async def resume(self, call: IncomingCall, kind: Kind, name: str) -> None:
        """Ends a queue's or method's pause on every shard; there need not be one.

        Raises:
            RowcallError: NOT_KNOWN, or SHARD_UNAVAILABLE if it may still be paused on some.
        """

        async def resume(link: ShardLink) -> bool:
            return await link.admin.resume(kind, name, act=call.act)

        await self._everywhere(call, kind, name, resume, "resumed")

    async def pause_tenant(self, call: IncomingCall, name: str, note: str) -> None:
        """Pauses the caller's tenant on its shard. Pausing twice is pausing once.

        Raises:
            RowcallError: INVALID_REQUEST, INVALID_NAME, NOT_KNOWN, or what the shard raises.
        """
        check_text(note, "note")
        tenant, actor = own_tenant(call, name), call.principal.actor

        async def pause(link: ShardLink) -> bool:
            return await link.admin.pause("tenant", tenant, by=actor, note=note or None, act=call.act)

        await self._on_own_shard(call, name, pause)

    async def resume_tenant(self, call: IncomingCall, name: str) -> None:
        """Ends the pause of the caller's tenant; there need not be one.

        Raises:
            RowcallError: INVALID_NAME, NOT_KNOWN, or what the shard raises.
        """
        tenant = own_tenant(call, name)

        async def resume(link: ShardLink) -> bool:
            return await link.admin.resume("tenant", tenant, act=call.act)

        await self._on_own_shard(call, name, resume)

    async def weigh_tenant(self, call: IncomingCall, name: str, weight: float) -> None:
        """Sets the share of the caller's tenant, 0.01 to 100.

        Raises:
            RowcallError: INVALID_NAME, NOT_KNOWN, or what the shard raises.
        """
        tenant = own_tenant(call, name)

        async def weigh(link: ShardLink) -> bool:
            return await link.admin.weigh(tenant, weight, act=call.act)

        await self._on_own_shard(call, name, weigh)

    def _served(self, kind: Kind, name: str) -> JobMethod | None:
        """A served method that a queue or method is known by, even to a shard that is new."""
        if kind == "method":
            return self._offered.catalogue.method(name)
        return next(
            (method for method in self._offered.catalogue.methods.values() if method.policy.queue == name), None
        )

    async def _everywhere(
        self, call: IncomingCall, kind: Kind, name: str, change: Callable[[ShardLink], Awaitable[bool]], done: str
    ) -> None:
        """Makes a change on every shard. Raises RowcallError: NOT_KNOWN, or SHARD_UNAVAILABLE if it may not be on all."""
        if "\0" in name:
            # Protobuf has it, Postgres has not: nobody can know the name.
            raise not_known(kind, name)
        answers = await ask_everywhere(self._links, change, call)
        changed = [shard for shard, known in answers.given.items() if known]
        if answers.missing:
            raise RowcallError(
                ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE,
                f"The {kind} is {done} on {listed(changed) if changed else 'no shard'}, and perhaps not on "
                f"{listed(answers.missing)}, which did not answer. Call again: what is {done} stays so.",
                metadata={"shard": ",".join(sorted(answers.missing))},
                retry_after=RETRY_AFTER,
            )
        if not changed:
            raise not_known(kind, name)

    async def _on_own_shard(
        self, call: IncomingCall, name: str, change: Callable[[ShardLink], Awaitable[bool]]
    ) -> None:
        """Makes a change on the shard of the caller's tenant. Raises RowcallError: NOT_KNOWN, or what the shard raises."""
        route = self._router.route_cached(call.tenant) or await self._router.find(call.tenant)
        for _ in range(2):
            if route is None:
                break
            link = self._links[self._router.shard(route.shard).name]
            answers = await ask_everywhere([link], change, call)
            for error in answers.missing.values():
                raise error
            if answers.given[link.name]:
                return
            # It has moved: whoever knows better is asked once.
            self._router.invalidate(call.tenant, route.epoch)
            route = await self._router.find(call.tenant)
        raise not_known("tenant", name)
