"""Renewing a worker's lease, blocking: called from a thread of the worker's own, so that no handler can hold it up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg

from rowcall import forks
from rowcall.queue import statuses
from rowcall.queue.model import ATTEMPT_GRACE, IDLE, Busy, Moment, Renewed, Rescued, Running
from rowcall.queue.postgres import rows
from rowcall.queue.postgres.faults import fault
from rowcall.queue.postgres.statements import statement
from rowcall.queue.sweeps import Horizon, Sweep
from rowcall.security import passwords


class PostgresLeaseRenewal:
    """A `rowcall.queue.protocol.LeaseRenewal` over a connection of its own."""

    def __init__(
        self, conninfo: str, worker_id: UUID, lease: timedelta, *, shard: str, prepare: bool = True, guard: bool = True
    ) -> None:
        """
        Args:
            conninfo: Of the shard.
            worker_id: What the worker was registered as.
            lease: How long the lease is to last from each renewal on.
            shard: The shard's name, for errors.
            prepare: Whether the connection keeps prepared statements; a pooler in transaction mode may not.
            guard: Whether the connection's session stands for the worker, so that it is suspected soon after its
                process died, not only when the lease is over. Never through a pooler in transaction mode, where a
                session is anybody's.
        """
        self._prepare = prepare
        self._guard = guard
        self._guarded = False
        self._conninfo = conninfo
        own = psycopg.conninfo.conninfo_to_dict(conninfo)
        # A connection that hangs must be given up while there is time for another attempt.
        patience = max(1, int(lease.total_seconds() / 3))
        self._parameters: dict[str, Any] = {
            "keepalives_idle": patience,
            "keepalives_interval": 1,
            "keepalives_count": 2,
            "application_name": "rowcall lease",
            **own,
            "connect_timeout": patience,
            "tcp_user_timeout": patience * 1000,
        }
        self._worker_id = worker_id
        self._lease = lease
        self._shard = shard
        self._connection: psycopg.Connection[Any] | None = None
        self._horizon = Horizon()
        self._cancelled = Sweep(self._horizon)

    def renew(self, loop_lag: timedelta | None = None, busy: Busy = IDLE) -> Renewed:
        """See LeaseRenewal.renew."""
        try:
            connection = self._connected()
            began = time.monotonic()
            look = self._cancelled.look(began)
            queues = sorted(busy.queues.keys() | busy.room.keys())
            parameters = {
                "worker_id": self._worker_id,
                "lease": self._lease,
                "loop_lag": loop_lag,
                "since": look.since,
                "slots_taken": busy.slots,
                "threads_taken": busy.threads,
                "busy_tenant": [tenant for tenant, _ in busy.jobs],
                "busy_job_id": [job_id for _, job_id in busy.jobs],
                "busy_queue_id": queues,
                "busy_jobs": [busy.queues.get(queue_id, 0) for queue_id in queues],
                "busy_slots": [busy.room.get(queue_id, 0) for queue_id in queues],
            }
            # Binary: PGDATESTYLE comes behind what a session of ours is told, and psycopg reads times of no other style.
            row = connection.execute(
                statement("renew_worker"), parameters, prepare=self._prepare, binary=True
            ).fetchone()
            ended = time.monotonic()
            if self._guard and not self._guarded and row is not None and row[0]:
                # The renewal first: after a cut it is what the worker lives by. A session that was cut off may hold the
                # lock for a while yet; it is asked for again with the next renewal.
                self._guarded = self._take_guard(connection)
        except (psycopg.Error, OSError) as error:
            self.close()
            # Renewing twice is renewing once: an unknown outcome is no other case.
            raise fault(error, shard=self._shard) from error
        if row is None or not row[0]:
            return Renewed(alive=False, cancelled=(), paused_queues=())
        _, tenants, job_ids, leases, paused, *moment = row
        self._cancelled.looked(look, whole=True, began=began, ended=ended)
        self._horizon.heard(Moment(*moment), began)
        cancelled = [Running(*each) for each in zip(tenants or (), job_ids or (), leases or (), strict=True)]
        return Renewed(alive=True, cancelled=cancelled, paused_queues=paused or (), moment=Moment(*moment))

    def expire(self, overdue: Sequence[Running], grace: timedelta = ATTEMPT_GRACE) -> list[Rescued]:
        """See LeaseRenewal.expire."""
        parameters = {
            "tenant": [each.tenant for each in overdue],
            "job_id": [each.job_id for each in overdue],
            "lease": [each.lease for each in overdue],
            "limit": len(overdue),
            "since": None,
            "grace": grace,
            "timeout_error": statuses.timed_out(),
            "deadline_error": statuses.deadline_over(),
            "cancelled_error": statuses.cancelled(),
        }
        try:
            # Its commit may wait for a standby, which no renewal does.
            with passwords.connect_blocking(self._conninfo, **self._parameters, autocommit=True) as connection:
                forks.hold(connection)
                found = connection.execute(statement("expire_attempts"), parameters, prepare=False).fetchall()
        except (psycopg.Error, OSError) as error:
            raise fault(error, shard=self._shard) from error
        return [rows.rescued(row) for row in found]

    def _connected(self) -> psycopg.Connection[Any]:
        connection = self._connection
        if connection is None or connection.closed:
            connection = self._connection = passwords.connect_blocking(
                self._conninfo, **self._parameters, autocommit=True
            )
            forks.hold(connection)
            self._guarded = False
        return connection

    def _take_guard(self, connection: psycopg.Connection[Any]) -> bool:
        row = connection.execute(
            statement("guard_worker"), {"worker_id": self._worker_id}, prepare=self._prepare
        ).fetchone()
        return row is not None and bool(row[0])

    def close(self) -> None:
        """See LeaseRenewal.close."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
