"""What a shard gives to the handlers of its jobs beyond the request: put together by `rowcall_worker.shard`."""

from __future__ import annotations

from dataclasses import dataclass

from rowcall.queue.transactions import Transactions
from rowcall_worker.serving.children import Children
from rowcall_worker.serving.progress import ProgressBoard


@dataclass(frozen=True, slots=True)
class Abilities:
    """One shard's; the attempts of its jobs have them through their sink."""

    transactions: Transactions
    """Transactions that commit with the settlement."""
    children: Children
    """Jobs that are submitted with the settlement."""
    progress: ProgressBoard
    """Where running jobs say how far they are, and what their calls cost."""
