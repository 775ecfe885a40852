"""Whose turn it is within a lane: the submitter's half of start-time fair queueing. Called by the store.

A job's order key is max(the lane's frontier, its tenant's last key) + stride: a tenant with a backlog moves ahead of
the frontier by one stride a job, and the next job of a tenant without one lands just above the frontier, before all of
that backlog but its first job (P. Goyal, H. Vin, H. Cheng: Start-time Fair Queueing, SIGCOMM 1996).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rowcall.queue.model import ORDER_STRIDE


class Flow(NamedTuple):
    """What takes turns: a tenant's jobs in one lane of one queue."""

    queue_id: int
    lane: int
    tenant: str


@dataclass(frozen=True, slots=True)
class Turn:
    """What a batch's jobs are submitted with, in its order."""

    flows: Sequence[Flow]
    """The jobs' flows."""
    last_keys: Sequence[int]
    """The last keys of the flows, as far as is known; 0 where nothing is."""
    steps: Sequence[int]
    """How far behind the last key or the frontier each job comes, for a tenant of weight 1: one stride for each job of
    the flow that is on its way, and one for each of the batch up to this one."""


class Turns:
    """Remembers the last order key of each flow, of the ones used last.

    Only a cache: of a flow that is not remembered, the submit reads what gateways have left in the shard (each tells of
    its flows once a second, and hears of the others' turns in the same flows).
    """

    def __init__(self, capacity: int = 50_000) -> None:
        self._capacity = capacity
        self._last: OrderedDict[Flow, int] = OrderedDict()
        self._under_way: dict[Flow, int] = {}
        self._moved: set[Flow] = set()

    def take(self, flows: Sequence[Flow]) -> Turn:
        """Keys for a batch that is about to be sent; `end` must follow.

        The keys that its jobs get are known only when it is written. A batch that is sent meanwhile lands behind it as
        if every job of it were new.
        """
        steps: dict[Flow, int] = {}
        last_keys = []
        each = []
        for flow in flows:
            step = steps[flow] = steps.get(flow, 0) + ORDER_STRIDE
            last_keys.append(self._last.get(flow, 0))
            each.append(self._under_way.get(flow, 0) + step)
        for flow, step in steps.items():
            self._under_way[flow] = self._under_way.get(flow, 0) + step
        return Turn(flows, last_keys, each)

    def end(self, turn: Turn, keys: Sequence[int | None]) -> None:
        """The batch was answered: the keys of the jobs that are new, None for the others."""
        for flow, jobs in Counter(turn.flows).items():
            left = self._under_way[flow] - jobs * ORDER_STRIDE
            if left > 0:
                self._under_way[flow] = left
            else:
                del self._under_way[flow]
        highest: dict[Flow, int] = {}
        for flow, key in zip(turn.flows, keys, strict=True):
            if key is not None and key > highest.get(flow, -1):
                highest[flow] = key
        for flow, key in highest.items():
            self._heard(flow, key)
        self._moved.update(highest)
        self._trim()

    def moved(self) -> dict[Flow, int]:
        """The last keys of the flows that moved since this was last asked: what other gateways should know."""
        moved, self._moved = self._moved, set()
        return {flow: self._last[flow] for flow in moved if flow in self._last}

    def still_moved(self, flows: Iterable[Flow]) -> None:
        """Other gateways could not be told of these: they belong to what `moved` answers next."""
        self._moved.update(flows)

    def learn(self, last_keys: Mapping[Flow, int]) -> None:
        """Takes what other gateways know."""
        for flow, key in last_keys.items():
            self._heard(flow, key)
        self._trim()

    def _heard(self, flow: Flow, key: int) -> None:
        self._last[flow] = max(key, self._last.get(flow, 0))
        self._last.move_to_end(flow)

    def _trim(self) -> None:
        while len(self._last) > self._capacity:
            self._last.popitem(last=False)
