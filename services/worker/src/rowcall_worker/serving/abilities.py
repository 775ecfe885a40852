"""What a shard gives to the handlers of its jobs beyond the request: put together by `rowcall_worker.shard`."""

from __future__ import annotations

from dataclasses import dataclass

from rowcall.queue.postgres.transaction import TransactionLimits, Transactions
from rowcall_worker.serving.children import Children
from rowcall_worker.serving.progress import ProgressBoard
from rowcall_worker.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class Abilities:
    """One shard's; the attempts of its jobs have them through their sink."""

    transactions: Transactions
    """Transactions that commit with the settlement."""
    children: Children
    """Jobs that are submitted with the settlement."""
    progress: ProgressBoard
    """Where running jobs say how far they are."""


def transaction_limits(settings: WorkerSettings) -> TransactionLimits:
    """How long handlers' transactions may take. Idle ones end well before a lease does that nobody renews any more."""
    return TransactionLimits(
        length=settings.transaction_limit,
        idle=min(settings.transaction_limit, settings.lease * 2 / 3),
        wait=settings.transaction_wait,
    )
