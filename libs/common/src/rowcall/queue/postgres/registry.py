"""A shard's ids of methods, policies and queues, made where they are new. Called by the store and the work queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rowcall.catalogue.model import JobMethod, Policy
from rowcall.catalogue.shapes import Shape
from rowcall.queue.model import MethodIds
from rowcall.queue.postgres.session import Session
from rowcall.queue.postgres.wire.arrays import IntegerArray, JsonbArray, TextArray

_TYPES: Final = 500
"""As many types are written by one statement."""


class Registry:
    """Ids of one shard; remembered, for they never change."""

    def __init__(self, session: Session) -> None:
        """
        Args:
            session: One that may write.
        """
        self._session = session
        self._known: dict[tuple[str, Policy], MethodIds] = {}
        # By name, with the policy that was asked for last: to hash a policy takes a while, and it is the same one each time.
        self._last: dict[str, tuple[Policy, MethodIds]] = {}
        self._queues: dict[int, str] = {}
        self._published: set[tuple[str, Policy]] = set()

    def known(self, method: str, policy: Policy) -> MethodIds | None:
        """What is remembered."""
        last = self._last.get(method)
        if last is not None and last[0] is policy:
            return last[1]
        found = self._known.get((method, policy))
        if found is not None:
            self._last[method] = (policy, found)
        return found

    def queue_name(self, queue_id: int) -> str | None:
        """What a queue is called, if one of the methods that were asked for is submitted to it."""
        return self._queues.get(queue_id)

    async def method_ids(self, method: str, policy: Policy) -> MethodIds:
        """The ids of a method ("package.Service/Method") with its policy. Raises RowcallError."""
        known = self._known.get((method, policy))
        if known is None:
            known = self._known[method, policy] = MethodIds(
                method_id=await self._session.value("method_id", {"name": method}),
                policy_id=await self._session.value(
                    "policy_id",
                    {
                        "max_attempts": policy.max_attempts,
                        "backoff_initial": policy.backoff_initial,
                        "backoff_maximum": policy.backoff_maximum,
                        "backoff_multiplier": policy.backoff_multiplier,
                        "timeout": policy.timeout,
                        "retention": policy.retention,
                        "on_abandon": policy.on_abandon,
                        "deadline": policy.deadline,
                        "retry_codes": IntegerArray(policy.retry_codes),
                    },
                ),
                queue_id=await self._session.value("queue_id", {"name": policy.queue}),
            )
            self._queues[known.queue_id] = policy.queue
        return known

    async def publish_types(self, shapes: Mapping[str, Shape]) -> None:
        """Writes what is new of these types. Raises RowcallError."""
        names = sorted(shapes)
        for batch in (names[start : start + _TYPES] for start in range(0, len(names), _TYPES)):
            fields = JsonbArray([shapes[name] for name in batch])
            await self._session.rows("publish_types", {"name": TextArray(batch), "fields": fields})

    async def publish(self, method: JobMethod) -> MethodIds:
        """The ids of a method, and the shard knows of it what `submit_v1` and follow-up jobs need. Raises RowcallError."""
        ids = await self.method_ids(method.name, method.policy)
        if (method.name, method.policy) not in self._published:
            await self._session.rows(
                "publish_method",
                {
                    "method_id": ids.method_id,
                    "policy_id": ids.policy_id,
                    "queue_id": ids.queue_id,
                    "lane": method.policy.priority,
                    "request_type": method.request_type,
                    "response_type": method.response_type,
                },
            )
            self._published.add((method.name, method.policy))
        return ids
