"""What a worker is told at its start, by environment (ROWCALL_…) and flags. See `rowcall.settings`."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, field_validator

from rowcall.audit.signing import read_key
from rowcall.ops.settings import OpsSettings
from rowcall.queue.transactions import TransactionLimits
from rowcall.settings import ClusterSettings, Duration, ProcessCount, ReadableFile, ReadableFiles, TraceSettings
from rowcall_worker.claiming.shares import QueueChoice
from rowcall_worker.serving.prices import read_prices

_SERVICER: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_MIN_LEASE: Final = timedelta(seconds=1)


def is_servicer(text: str) -> bool:
    """Whether it is written module:function; `rowcall_worker.servicers` finds out what is behind it."""
    return _SERVICER.fullmatch(text) is not None


def _queue_choice(value: object) -> object:
    return QueueChoice.parse(value) if isinstance(value, str) else value


class WorkerSettings(ClusterSettings, OpsSettings, TraceSettings):
    """How a worker runs: what it serves, how much at once, how long it holds on."""

    program: ClassVar[str] = "rowcall-worker"
    usage_example: ClassVar[str] = (
        "rowcall-worker --catalogue postgresql:///rowcall_catalogue --shard a=postgresql:///rowcall_a "
        "--servicer documents.worker:register"
    )

    servicers: tuple[str, ...] = Field(
        default=(),
        description="A function that registers servicers: it is called with the worker, for the generated "
        "add_...Servicer_to_server. Its module must be importable.",
        examples=["documents.worker:register"],
        json_schema_extra={"flag": "servicer", "metavar": "MODULE:FUNCTION"},
    )
    images: ReadableFiles = Field(
        default=(),
        description="Descriptor images with the servicers' methods. Not needed where their generated code is Python's: "
        "it has the same descriptors.",
        examples=["documents.binpb"],
        json_schema_extra={"flag": "image", "metavar": "FILE"},
    )
    queues: tuple[Annotated[QueueChoice, BeforeValidator(_queue_choice)], ...] = Field(
        default=(),
        description="Claim from these queues only; from all where none is named. WEIGHT, from 0.01 to 100 and 1 where "
        "nothing is said, is a queue's share of the free slots while several have work; SLOTS is the most of its jobs "
        "at once in this process.",
        examples=["documents=3:50,ask"],
        json_schema_extra={"flag": "queue", "metavar": "NAME[=WEIGHT[:SLOTS]]"},
    )
    probe: bool = Field(
        default=True, description="Serve the built-in ProbeService, for canaries and benchmarks.", examples=["true"]
    )
    allow_faults: bool = Field(
        default=False,
        description="Let probe requests end this process (exit_process). For fault tests, never in production.",
        examples=["false"],
    )
    processes: ProcessCount = Field(
        default=1,
        description="How many worker processes to run. Each has slots, threads and pools of its own.",
        examples=["2"],
    )
    slots: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=200, description="How many jobs of async handlers run at once.", examples=["200"]
    )
    threads: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=16, description="How many jobs of sync handlers run at once, each in a thread.", examples=["16"]
    )
    lease: Duration = Field(
        default="15s",
        validate_default=True,
        description="How long the jobs of a worker that vanished wait before others take them; 1s or more.",
        examples=["15s"],
    )
    grace: Duration = Field(
        default="30s",
        validate_default=True,
        description="How long a stopping worker lets running jobs finish before it hands them back.",
        examples=["30s"],
    )
    max_response_bytes: Annotated[int, Field(ge=1)] = Field(
        default=1024 * 1024, description="A larger response fails its job.", examples=["1048576"]
    )
    max_request_bytes: Annotated[int, Field(ge=1)] = Field(
        default=1024 * 1024, description="A handler may submit jobs with requests of this size.", examples=["1048576"]
    )
    transaction_limit: Duration = Field(
        default="30s",
        validate_default=True,
        description="How long a handler may keep its job's transaction open before it is ended and the attempt fails.",
        examples=["30s"],
    )
    transaction_wait: Duration = Field(
        default="10s",
        validate_default=True,
        description="How long a handler waits for a connection for its job's transaction before the attempt fails.",
        examples=["10s"],
    )
    poll: Duration = Field(
        default="1s",
        validate_default=True,
        description="How long an idle queue is left alone at most, where no hint says that it has jobs; without hints a "
        "quarter of it.",
        examples=["1s"],
    )
    audit_retention: Duration = Field(
        default="400d",
        validate_default=True,
        description="How long entries of the audit are kept, 1d or more. They are cut off only where ROWCALL_AUDIT_KEY_FILE says with "
        "which key that is signed.",
        examples=["400d"],
    )
    prices: ReadableFile | None = Field(
        default=None,
        description="A TOML file with what providers ask for their models, from which day on, for calls that do not say themselves "
        "what they cost (docs/spend.md). Read again when it changes.",
        examples=["/etc/rowcall/prices.toml"],
        json_schema_extra={"metavar": "FILE"},
    )
    trace_relation: Literal["parent", "link"] = Field(
        default="parent",
        description="How the span of an attempt belongs to what submitted its job. parent: it lies under it, as one tree. link: it has no "
        "parent and a link, as OpenTelemetry's conventions prefer. The trace is the same.",
        examples=["parent"],
    )
    attempt_lines: Literal["sampled", "all"] = Field(
        default="sampled",
        description="Which attempts that went well have a line in the log. sampled: those whose trace is recorded, and those after a "
        "job's first. all: each. What failed has one in any case.",
        examples=["all"],
    )
    health_file: Path | None = Field(
        default=None,
        description="A file to touch every second as a sign of life, for `python -m rowcall_worker.healthcheck`.",
        examples=["/tmp/rowcall-worker.alive"],  # noqa: S108 - an example, in a container of its own
        json_schema_extra={"metavar": "FILE"},
    )

    @property
    def transaction_limits(self) -> TransactionLimits:
        """How long handlers' transactions may take. Idle ones end well before a lease does that nobody renews any more."""
        return TransactionLimits(
            length=self.transaction_limit,
            idle=min(self.transaction_limit, self.lease * 2 / 3),
            wait=self.transaction_wait,
        )

    @field_validator("servicers")
    @classmethod
    def _check_servicers(cls, servicers: tuple[str, ...]) -> tuple[str, ...]:
        for servicer in servicers:
            if not is_servicer(servicer):
                raise ValueError(f"has {servicer!r}, which is not module:function")
        return servicers

    @field_validator("queues")
    @classmethod
    def _check_queues(cls, queues: tuple[QueueChoice, ...]) -> tuple[QueueChoice, ...]:
        names = [queue.name for queue in queues]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"names {', '.join(map(repr, twice))} twice; say a queue's weight and slots together")
        return queues

    @field_validator("lease")
    @classmethod
    def _check_lease(cls, lease: timedelta) -> timedelta:
        if lease < _MIN_LEASE:
            raise ValueError("is below 1s; renewals would not come in time")
        return lease

    @field_validator("audit_key_file")
    @classmethod
    def _check_audit_key_file(cls, file: Path | None) -> Path | None:
        if file is not None:
            read_key(file)
        return file

    @field_validator("prices")
    @classmethod
    def _check_prices(cls, file: Path | None) -> Path | None:
        if file is not None:
            read_prices(file)
        return file

    @field_validator("audit_retention")
    @classmethod
    def _check_audit_retention(cls, retention: timedelta) -> timedelta:
        if retention < timedelta(days=1):
            raise ValueError("is below 1d; heads that somebody kept would be of no use")
        return retention

    @field_validator("poll", "transaction_limit", "transaction_wait")
    @classmethod
    def _check_poll(cls, poll: timedelta) -> timedelta:
        if poll <= timedelta(0):
            raise ValueError("is not above 0")
        return poll


def settings_apart(settings: WorkerSettings, shard: str) -> WorkerSettings:
    """A worker's settings for the process that runs the suspects of one shard: with small pools, and without a sign of life
    and an operations port, for whoever started it has them."""
    return settings.model_copy(
        update={
            "shards": {shard: settings.shards[shard]},
            "placement": {},
            "processes": 1,
            "pool_claim": 1,
            "pool_settle": 1,
            "pool_maintenance": 1,
            "health_file": None,
            "ops_listen": None,
        }
    )


def connections_apart(settings: WorkerSettings) -> int:
    """The most connections that the pools of such a process open to its shard."""
    return 3 + settings.pool_transaction
