"""What spans and metrics are described by: every attribute's name, once. Whoever describes something imports it from here.

| here | follows | where it stands |
|---|---|---|
| `rpc.*`, `error.type` | OpenTelemetry's semantic conventions 1.45 for RPC and for errors | stable |
| `messaging.*` | theirs for messaging | in development: a name may change, and is changed here |
| `gen_ai.*` | theirs for generative AI | in development, likewise |
| `rowcall.*` | nobody: what the conventions have no attribute for, such as cost and tenants | ours |

docs/tracing.md has the same names for people; a test holds the two to each other. See
https://opentelemetry.io/docs/specs/semconv/registry/attributes/
"""

from __future__ import annotations

from typing import Final

# --- calls ---

RPC_SYSTEM: Final = "rpc.system.name"
""""grpc"."""
RPC_METHOD: Final = "rpc.method"
"""As "package.Service/Method"; of what no image has, `_OTHER`."""
RPC_STATUS_CODE: Final = "rpc.response.status_code"
"""The code's name, as "DEADLINE_EXCEEDED". (`rpc.status_code` and `rpc.grpc.status_code`, a number, were before it.)"""
ERROR_TYPE: Final = "error.type"
"""Of what failed: the code's name, of a call of a model the exception's type."""

# --- jobs ---

MESSAGING_SYSTEM: Final = "messaging.system"
""""rowcall"."""
MESSAGING_OPERATION: Final = "messaging.operation.name"
""""send", "receive" or "process"."""
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
"""The same, as the conventions class them."""
MESSAGING_DESTINATION: Final = "messaging.destination.name"
"""The queue."""
MESSAGING_MESSAGE: Final = "messaging.message.id"
"""The job's id, a UUID."""
MESSAGING_BATCH: Final = "messaging.batch.message_count"
"""How many jobs were submitted at once."""

# --- calls of models and providers ---

GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER: Final = "gen_ai.provider.name"
GEN_AI_MODEL: Final = "gen_ai.request.model"
GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
"""All of the input, that of the provider's cache among it."""
GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"

# --- ours ---

TENANT: Final = "rowcall.tenant"
"""Whose it is."""
ACTOR: Final = "rowcall.actor"
"""Who triggered it."""
REQUEST_ID: Final = "rowcall.request_id"
"""The caller's idempotency key."""
OPERATION: Final = "rowcall.operation"
"""The job's name: "tenants/{tenant}/operations/{uuid}"."""
METHOD: Final = "rowcall.method"
"""The job's method, as "package.Service/Method"."""
ATTEMPT: Final = "rowcall.attempt"
"""Which attempt, from 1."""
LEASE: Final = "rowcall.lease"
"""The lease number that it was made under."""
STATE: Final = "rowcall.state"
"""What the job was then, as JobState has it without its prefix: "SUCCEEDED"."""
OUTCOME: Final = "rowcall.outcome"
"""What an attempt came to, as `rowcall.attempts` has it: "retried"; of a send, whether the job was "created" or "joined"."""
REASON: Final = "rowcall.reason"
"""ErrorInfo.reason, where a call was not answered or an attempt failed."""
SHARD: Final = "rowcall.shard"
"""Where the row is."""
WORKER: Final = "rowcall.worker"
"""The worker process's name."""
CALL: Final = "rowcall.call"
"""Which call of a model or provider of its attempt, from 1: with operation and lease the key of its entry in `spend_entry`."""
COST: Final = "rowcall.cost.amount"
COST_CURRENCY: Final = "rowcall.cost.currency"
LATENCY: Final = "rowcall.latency"
"""In seconds."""
VERDICT: Final = "rowcall.verdict"
"""What came of a call of a model or provider, in a word."""
LOCATION: Final = "rowcall.location"
"""Where a handler raised, for operators: "module:function:line"."""
WORKER_VERSION: Final = "rowcall.worker.version"
"""Of what its worker ran, of an attempt that did not succeed."""
BEFORE: Final = "rowcall.before"
"""What an operator changed, as it was: JSON."""
AFTER: Final = "rowcall.after"
"""And as it was then."""
FINGERPRINT: Final = "rowcall.fingerprint"
"""Of an incident."""
SERVICE: Final = "service.name"
"""Who met an incident: "gateway", "worker"."""
