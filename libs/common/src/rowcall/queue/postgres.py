"""The queue on Postgres: what gateways and workers construct, one of each a shard."""

from rowcall.queue.store import PostgresJobStore
from rowcall.queue.work import PostgresWorkQueue

__all__ = ["PostgresJobStore", "PostgresWorkQueue"]
