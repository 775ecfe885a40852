"""Every metric that there is: its name, its labels, and what it follows. Whoever counts something imports it from here.

| here | follows | where it stands |
|---|---|---|
| CALL_DURATION | `rpc.server.call.duration` of OpenTelemetry's semantic conventions 1.45, with their attributes | stable |
| SENT, CONSUMED | `messaging.client.sent.messages`, `messaging.client.consumed.messages` | in development |
| PROCESS_DURATION | `messaging.process.duration` | in development |
| the others | ours, `rowcall.`; labels of ours are plain words | may gain labels until 1.0 |

Never labelled by tenant, of which there may be any number, by job, or by what a caller chose freely: each of these makes a time series of
its own wherever it is kept. docs/metrics.md has all of them as Prometheus names them.
"""

from __future__ import annotations

import operator
from typing import Final

from rowcall.telemetry.conventions import (
    MESSAGING_DESTINATION,
    MESSAGING_OPERATION,
    MESSAGING_SYSTEM,
    RPC_METHOD,
    RPC_STATUS_CODE,
    RPC_SYSTEM,
)
from rowcall.telemetry.tallies import OTHER, Counter, Gauge, Histogram

GRPC: Final = "grpc"
"""`rpc.system.name` of every call."""
ROWCALL: Final = "rowcall"
"""`messaging.system` of every job."""
SEND: Final = "send"
RECEIVE: Final = "receive"
PROCESS: Final = "process"
"""`messaging.operation.name`."""
UNKNOWN_METHOD: Final = OTHER
"""`rpc.method` of what no image has: whoever calls chooses its name."""

# --- calls, at the gateway ---

CALL_DURATION: Final = Histogram(
    "rpc.server.call.duration",
    "How long calls took at the gateway, from their request being there to their answer.",
    (RPC_SYSTEM, RPC_METHOD, RPC_STATUS_CODE),
    unit="s",
)
CALL_ERRORS: Final = Counter(
    "rowcall.call.errors",
    "Calls that were not answered with OK, by ErrorInfo.reason and by whose error it is (GATEWAY or JOB). STILL_RUNNING is no failure.",
    ("method", "code", "reason", "origin"),
    unit="{call}",
)
ANSWERS: Final = Counter(
    "rowcall.answers",
    "Answers to calls of job methods: in_time, joined (in time, by a job that was there), operation, still_running, failed.",
    ("method", "outcome"),
    unit="{call}",
)
ADMISSION_REFUSED: Final = Counter(
    "rowcall.admission.refused", "Calls that bounds did not let in.", ("measure", "queue", "method"), unit="{call}"
)
ADMISSION_LATE: Final = Counter(
    "rowcall.admission.late", "Calls that were refused because they would have been answered too late.", unit="{call}"
)
ADMISSION_WAITED: Final = Histogram(
    "rowcall.admission.waited",
    "For how long calls waited in line before they were let in.",
    ("queue", "method"),
    unit="s",
)
CACHE_LOOKUPS: Final = Counter(
    "rowcall.cache.lookups",
    "Looks into what a process remembers: routes of tenants, ids of methods, tokens; hit or miss.",
    ("cache", "result"),
)

# --- jobs, at the gateway and at the worker ---

SENT: Final = Counter(
    "messaging.client.sent.messages",
    "Jobs that calls, batches and handlers have created.",
    (MESSAGING_SYSTEM, MESSAGING_OPERATION, MESSAGING_DESTINATION),
    unit="{message}",
)
CONSUMED: Final = Counter(
    "messaging.client.consumed.messages",
    "Jobs that claims have brought and a worker has taken in.",
    (MESSAGING_SYSTEM, MESSAGING_OPERATION, MESSAGING_DESTINATION),
    unit="{message}",
)
PROCESS_DURATION: Final = Histogram(
    "messaging.process.duration",
    "How long attempts took, from their beginning to their outcome.",
    (MESSAGING_SYSTEM, MESSAGING_OPERATION, "method"),
    unit="s",
)
ATTEMPTS: Final = Counter(
    "rowcall.attempts",
    "Attempts that have ended: succeeded, retried, snoozed, failed, cancelled, or fenced, whose result no longer counted.",
    ("method", "outcome"),
    unit="{attempt}",
)
ATTEMPT_ERRORS: Final = Counter(
    "rowcall.attempt.errors",
    "Attempts that ended with an error, by its code: UNAVAILABLE, where a handler could not reach whom it asks.",
    ("method", "code"),
    unit="{attempt}",
)
EXTERNAL_CALLS: Final = Counter(
    "rowcall.external.calls",
    "Calls of models and providers that handlers have recorded: ok, or failed, where an exception left them.",
    ("kind", "provider", "outcome"),
    unit="{call}",
)
DEATHS: Final = ("failed", "lost", "overdue", "expired")
"""The causes of DEAD_LETTERS."""
DEAD_LETTERS: Final = Counter(
    "rowcall.dead_letters",
    "Jobs that failed for good: failed (by their handlers), lost (with their workers), overdue, or expired, before they were begun.",
    ("shard", "cause"),
    unit="{job}",
)
RESCUED_FROM: Final = ("dead_worker", "overdue")
"""The kinds of RESCUES."""
RESCUES: Final = Counter(
    "rowcall.rescues",
    "Jobs that were taken back: from a dead_worker, or from one that did not end an attempt in time (overdue).",
    ("shard", "kind"),
    unit="{job}",
)
FENCE_REJECTED: Final = Counter(
    "rowcall.fence_rejected",
    "Results that came too late, of jobs that were no longer the worker's. In peace there are none.",
    ("method",),
    unit="{attempt}",
)
SLOTS: Final = Gauge(
    "rowcall.worker.slots",
    "Jobs that a worker may run at once, of async and of sync handlers.",
    ("kind",),
    combine=operator.add,
)
SLOTS_USED: Final = Gauge(
    "rowcall.worker.slots_used", "Slots that handlers run in now.", ("kind",), combine=operator.add
)
SLOTS_STUCK: Final = Gauge(
    "rowcall.worker.slots_stuck",
    "Slots of handlers that go on although their attempts are over.",
    ("kind",),
    combine=operator.add,
)

# --- shards ---

WRITE_DURATION: Final = Histogram(
    "rowcall.write.duration",
    "How long a shard took for a batch: a submit, a claim or a settle, each a transaction, its commit and the way there.",
    ("shard", "statement"),
    unit="s",
)
WRITE_ERRORS: Final = Counter(
    "rowcall.write.errors", "Batches that a shard did not take.", ("shard", "statement"), unit="{batch}"
)
QUEUE_DEPTH: Final = Gauge(
    "rowcall.queue.depth",
    "Jobs that wait, by lane (1 first): ready for a worker, held back, or scheduled for later. As far as tenants' leads tell; never counted.",
    ("shard", "queue", "lane", "state"),
)
QUEUE_OLDEST_AGE: Final = Gauge(
    "rowcall.queue.oldest_age",
    "For how long the oldest of a queue's next jobs has been ready; 0 where none is.",
    ("shard", "queue"),
    unit="s",
)
QUEUE_RUNNING: Final = Gauge(
    "rowcall.queue.running", "Jobs of a queue that living workers run.", ("shard", "queue"), unit="{job}"
)
QUEUE_SLOTS: Final = Gauge(
    "rowcall.queue.slots",
    "Jobs of a queue that living workers could run at once. Each has the same slots for all shards, and tells each of them.",
    ("shard", "queue"),
    unit="{job}",
)
OLDEST_XMIN_AGE: Final = Gauge(
    "rowcall.oldest_xmin_age",
    "How old the oldest snapshot is that keeps a shard's dead rows; where its server lets us see it.",
    ("shard",),
    unit="s",
)

# --- the process ---

READY: Final = Gauge(
    "rowcall.ready", "Whether what /readyz looks at is well, by its name: 1, or 0.", ("service", "check"), combine=min
)
BUILD: Final = Gauge(
    "rowcall.build_info",
    "Always 1: which release of Rowcall this process is, and what whoever deployed it calls its version (ROWCALL_DEPLOYED_VERSION).",
    ("release", "deployed_version"),
)
DROPPED: Final = ("log_lines", "incidents", "spans", "activity", "metrics")
"""What TELEMETRY_DROPPED is of."""
TELEMETRY_DROPPED: Final = Counter(
    "rowcall.telemetry.dropped",
    "What was to be told and was dropped, because nobody took it in time: log_lines, incidents, spans, activity, and batches of metrics.",
    ("what",),
)
TRACES_LIMITED: Final = Counter(
    "rowcall.traces.limited",
    "Traces that callers asked to be recorded and that were not for that, because too many ask.",
    unit="{trace}",
)
