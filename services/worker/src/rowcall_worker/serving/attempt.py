"""What an attempt is and what its handler has said and done so far.

Shared by the context that the handler gets (`rowcall_worker.serving.context`) and by `rowcall_worker.running.executor`, which runs it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import grpc
import grpc.aio

from rowcall.context import CallContext
from rowcall.forks import in_child
from rowcall.names import operation_name
from rowcall.queue.model import ClaimedJob
from rowcall.telemetry.sampling import Sampling
from rowcall.tracing import TraceContext, new_span_id
from rowcall_worker.serving.abilities import Abilities
from rowcall_worker.serving.children import MAX_CHILDREN, Child, child_name, too_many
from rowcall_worker.serving.progress import ProgressBoard
from rowcall_worker.serving.transaction import AttemptTransaction

_CALLBACKS = threading.Lock()
"""Held for an instant whenever something is added to an attempt or taken: handlers may do so from threads of their own."""

MAX_RECORDED: Final = 200
"""Calls of models and providers that one attempt has spans of; more than that are told in what was spent."""

_FORKED = "this is a child that the handler forked: only the worker can do something for its job"
_OVER = "the attempt is over: nothing can be done for its job any more"


class RecordedCall(NamedTuple):
    """A call of a model or provider, for its span."""

    number: int
    """Which of its attempt's, from 1."""
    started: float
    """By time.monotonic()."""
    ended: float
    attributes: Mapping[str, str | int | float]
    """What is known of it, by the names of `rowcall.telemetry.conventions`."""


class AttemptState:
    """What an attempt is and what its handler has said so far; shared by the context and the executor."""

    __slots__ = (
        "_call",
        "_sampled",
        "abilities",
        "abort",
        "callbacks",
        "calls",
        "cancelled",
        "children",
        "code",
        "deadline",
        "details",
        "done",
        "job",
        "make_transaction",
        "max_attempts",
        "over",
        "recorded",
        "sampling",
        "span_id",
        "trailing_metadata",
        "transaction",
        "worker",
        "wrong",
    )

    def __init__(self, job: ClaimedJob, *, worker: str, max_attempts: int, deadline: float | None = None) -> None:
        self.job = job
        """The claimed row."""
        self.span_id = new_span_id()
        """Its position in the job's trace."""
        self._call: CallContext | None = None
        self.worker = worker
        """The name of the worker process."""
        self.max_attempts = max_attempts
        """How often the job may be tried."""
        self.deadline = deadline
        """When the attempt's time is over, by time.monotonic()."""
        self.code: grpc.StatusCode | None = None
        """What set_code or abort said."""
        self.details = ""
        """What set_details or abort said."""
        self.wrong = ""
        """What abort said that makes no sense; empty if it did."""
        self.trailing_metadata: tuple[tuple[str, str | bytes], ...] = ()
        """What set_trailing_metadata or abort said."""
        self.abort: grpc.aio.AbortError | None = None
        """The exception that ends an aborted call; whatever the handler does with it, the call stays aborted."""
        self.cancelled = False
        """Whether the handler should stop: its time or its lease is over, or the worker drains."""
        self.done = False
        """Whether the attempt has its outcome."""
        self.callbacks: list[Callable[[], object]] | None = []
        """To be called when the attempt ends; None when it has."""
        self.abilities: Abilities | None = None
        """What the shard gives to handlers."""
        self.over = False
        """Whether nothing more can be done for the job, as far as the handler is concerned."""
        self.calls = 0
        """How many calls of models and providers the handler has told of."""
        self.children: list[Child] = []
        """The jobs that the handler has submitted."""
        self.transaction: AttemptTransaction | None = None
        """The job's own transaction, once the handler has asked for it."""
        self.make_transaction: Callable[[AttemptState], AttemptTransaction] | None = None
        """Makes it."""
        self.sampling: Sampling | None = None
        """Says which traces are recorded; None: who asks for it."""
        self._sampled: bool | None = None
        self.recorded: list[RecordedCall] | None = None
        """The calls of models and providers that it has made, for their spans; None: nobody wants spans."""

    @property
    def call(self) -> CallContext:
        """Identity and trace of the attempt; made when somebody asks."""
        return self._call or self._make_call()

    @property
    def above(self) -> TraceContext:
        """Where in which trace its row is. One that was submitted without a trace has one of its own, the same for all its attempts."""
        job = self.job
        if job.traceparent is None:
            return TraceContext.of(job.job_id.bytes)
        return TraceContext(job.traceparent, job.tracestate)

    @property
    def sampled(self) -> bool:
        """Whether its trace is recorded; the same each time."""
        found = self._sampled
        if found is None:
            above = self.above
            found = asked = above.sampled
            if self.sampling is not None:
                found = self.sampling.samples(above.trace_id, asked=asked, root=self.job.traceparent is None)
            self._sampled = found
        return found

    def _make_call(self) -> CallContext:
        job, trace = self.job, self.above.child(self.span_id)
        if self.recorded is not None:
            # What goes on from here is told what is recorded here.
            trace = trace.marked(sampled=self.sampled)
        name = operation_name(job.tenant, job.job_id)
        made = CallContext(job.tenant, job.actor, job.request_id, trace, name, job.attempt)
        # A handler's threads may ask at once, and must hear the same.
        with _CALLBACKS:
            if self._call is None:
                self._call = made
            return self._call

    def given(self, *, when_over: bool = False) -> Abilities:
        """What the shard gives to handlers, while the attempt lasts, or whether or not. Raises RuntimeError when it is over, or forked."""
        if in_child():
            raise RuntimeError(_FORKED)
        if self.abilities is None or (self.over and not when_over):
            raise RuntimeError(_OVER)
        return self.abilities

    def board(self) -> ProgressBoard:
        """Where its calls are told of, also when the attempt is over: the money is gone. Raises RuntimeError in a forked child."""
        return self.given(when_over=True).progress

    def record(self, call: RecordedCall) -> None:
        """Keeps a call of a model or provider for its span, where somebody wants spans."""
        if self.recorded is not None and len(self.recorded) < MAX_RECORDED:
            self.recorded.append(call)

    def count_call(self) -> int:
        """The number of its next call of a model or provider, from 1."""
        with _CALLBACKS:
            self.calls += 1
            return self.calls

    def give_up(self) -> None:
        """The attempt is over, as far as its handler is concerned: nothing more can be done for the job."""
        with _CALLBACKS:
            self.over = True

    def submit(self, child: Child) -> str:
        """Keeps a child; its operation's name. Raises RowcallError: CHILD_REFUSED: it is one too many."""
        with _CALLBACKS:
            self.given()
            if len(self.children) >= MAX_CHILDREN:
                raise too_many()
            self.children.append(child)
        return child_name(self.job, child)

    def own_transaction(self) -> AttemptTransaction:
        """The attempt's transaction, which may not have begun. Raises RuntimeError when the attempt is over."""
        with _CALLBACKS:
            self.given()
            if self.transaction is None:
                if self.make_transaction is None:
                    raise RuntimeError(_OVER)
                self.transaction = self.make_transaction(self)
            return self.transaction

    def add(self, callback: Callable[[], object]) -> bool:
        """Keeps what is to be called when the attempt ends; False if it has ended."""
        with _CALLBACKS:
            if self.callbacks is None:
                return False
            self.callbacks.append(callback)
            return True

    def finish(self) -> list[Callable[[], object]]:
        """Marks the attempt done; the callbacks to call now."""
        with _CALLBACKS:
            self.done = True
            callbacks, self.callbacks = self.callbacks, None
        return callbacks or []
