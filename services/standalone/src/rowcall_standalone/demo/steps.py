"""What the demo does, step by step, as plain results. Called by `run`; shown by `report`."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from rowcall.probe.v1 import probe_pb2
from rowcall.v1 import job_pb2
from rowcall_standalone.demo import example
from rowcall_standalone.demo.caller import Caller, CallFailed, as_answered, as_ingested, as_probed
from rowcall_standalone.demo.corpus import Document
from rowcall_standalone.demo.questions import Question

IN_FLIGHT = 16
"""How many documents are ingested at the same time."""
FIRST_SOURCES = 3
"""Among how many sources the expected document must be."""

_INGEST_SECONDS = 60.0
_ASK_SECONDS = 30.0
_OUTLIVED_WORK = timedelta(seconds=1)
_OUTLIVED_DEADLINE = timedelta(seconds=0.4)
_FOLLOWED_WORK = timedelta(seconds=0.5)

_ECHO = "rowcall.probe.v1.ProbeService/Echo"
_AWAIT = "rowcall.probe.v1.ProbeService/Await"
_RUN = "rowcall.probe.v1.ProbeService/Run"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One document's ingestion."""

    document: Document
    operation: str
    within_wait: bool
    """Whether the call itself was answered with the finished operation."""
    document_id: str
    digest: str
    chunks: int
    changed: bool


@dataclass(frozen=True, slots=True)
class Ingestion:
    """All documents' ingestion."""

    outcomes: Sequence[Outcome]
    failures: Sequence[tuple[str, str]]
    """Path and error of each document that could not be ingested."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Place:
    """A source of an answer."""

    path: str
    first_line: int
    last_line: int
    score: float
    snippet: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and its answer."""

    question: Question
    answer: str
    places: Sequence[Place]
    seconds: float

    @property
    def as_promised(self) -> bool:
        """Whether it has sources, and a written question the right document among the first of them."""
        paths = [place.path for place in self.places[:FIRST_SOURCES]]
        return bool(paths) if self.question.made else self.question.expected in paths


@dataclass(frozen=True, slots=True)
class Outlived:
    """A call whose job took longer than its deadline, and the same call again."""

    key: str
    deadline: timedelta
    work: timedelta
    reason: str
    """What the first call ended with; STILL_RUNNING is what is expected."""
    operation: str
    """The job's name in the first call's error."""
    joined_operation: str
    """The job's name in the second call's trailers."""
    joined_seconds: float
    """How long the second call took."""
    same_answer: bool
    """Whether the second call was answered with what the first one had sent."""
    attempts: int
    """How often the handler ran."""

    @property
    def as_promised(self) -> bool:
        """Whether the job outlived its call, was joined and ran once."""
        return (
            self.reason == "STILL_RUNNING"
            and self.operation == self.joined_operation != ""
            and self.same_answer
            and self.attempts == 1
        )


@dataclass(frozen=True, slots=True)
class Followed:
    """An operation, from its submission to its end."""

    operation: str
    submitted_seconds: float
    """How long the call took that returned it."""
    sightings: Sequence[tuple[float, str]]
    """When, in seconds since the call, it was seen in which state."""
    waits: int
    """How many WaitOperation calls it took."""
    same_answer: bool

    @property
    def as_promised(self) -> bool:
        """Whether it was seen unfinished first, and succeeded at last."""
        states = [state for _, state in self.sightings]
        return self.same_answer and states[-1] == "SUCCEEDED" and states[0] in {"READY", "RUNNING"}


@dataclass(frozen=True, slots=True)
class Repeated:
    """A document ingested a second time, without a change, by another call."""

    path: str
    first_operation: str
    operation: str
    changed: bool
    same_document: bool

    @property
    def as_promised(self) -> bool:
        """Whether it was another job, which changed nothing."""
        return not self.changed and self.same_document and self.operation != self.first_operation


@dataclass(frozen=True, slots=True)
class Cost:
    """What calls of one model cost, in this demo and those before it."""

    model: str
    calls: int
    tokens: int
    amount: str
    """Exactly, in decimal digits."""
    currency: str


@dataclass(frozen=True, slots=True)
class Costs:
    """What the calls of models cost that the handlers made."""

    models: Sequence[Cost]
    made: int
    """How many there were in this run at the least: one for each document that was indexed, one for each question."""

    @property
    def as_promised(self) -> bool:
        """Whether each is in the books, with a cost."""
        return sum(each.calls for each in self.models if each.amount) >= self.made


class Steps:
    """The steps of one run of the demo."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        # Keys are this run's own: a key of an earlier run would be answered with that run's answers.
        self._run = secrets.token_hex(4)

    async def canary(self, deadline: float) -> float:
        """One Echo, all the way; returns the seconds it took."""
        request = probe_pb2.EchoRequest(payload=b"canary")
        return (await self._caller.call(_ECHO, request, key=self._key("canary"), deadline=deadline)).seconds

    async def ingest(self, documents: Sequence[Document], progress: Callable[[], None]) -> Ingestion:
        """Ingest every document, some at a time; `progress` is called after each."""
        outcomes: list[Outcome] = []
        failures: list[tuple[str, str]] = []
        left = iter(documents)

        async def drain() -> None:
            for document in left:
                try:
                    outcomes.append(await self._ingest(document, self._key("ingest", document.path)))
                except CallFailed as error:
                    failures.append((document.path, str(error)))
                progress()

        started = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.create_task(drain())
        return Ingestion(outcomes, failures, time.perf_counter() - started)

    async def ask(self, question: Question) -> Asked:
        """Ask one question. Raises CallFailed."""
        request = self._caller.request(example.ASK, question=question.text, max_sources=FIRST_SOURCES)
        reply = await self._caller.call(
            example.ASK, request, key=self._key("ask", question.text), deadline=_ASK_SECONDS
        )
        if reply.response is None:
            raise AssertionError("a typed call is answered with its response")
        answered = as_answered(reply.response)
        places = [
            Place(source.path, source.first_line, source.last_line, source.score, source.snippet)
            for source in answered.sources
        ]
        return Asked(question, answered.answer, places, reply.seconds)

    async def outlive(self) -> Outlived:
        """Call for more work than the deadline allows, then call again with the same key. Raises CallFailed."""
        key = self._key("outlive")
        payload = secrets.token_bytes(16)
        request = probe_pb2.AwaitRequest(payload=payload, work=_duration(_OUTLIVED_WORK))
        reason, operation = "OK", ""
        try:
            await self._caller.call(_AWAIT, request, key=key, deadline=_OUTLIVED_DEADLINE.total_seconds())
        except CallFailed as error:
            reason, operation = error.reason, error.operation
        joined = await self._caller.call(_AWAIT, request, key=key, deadline=_ASK_SECONDS)
        job = await self._caller.job(joined.operation)
        return Outlived(
            key,
            _OUTLIVED_DEADLINE,
            _OUTLIVED_WORK,
            reason,
            operation,
            joined.operation,
            joined.seconds,
            joined.response is not None and as_probed(joined.response).payload == payload,
            len(job.attempts) if job.attempts else job.attempt,
        )

    async def follow(self) -> Followed:
        """Submit work without waiting, and follow its operation to the end. Raises CallFailed."""
        payload = secrets.token_bytes(16)
        request = probe_pb2.RunRequest(payload=payload, work=_duration(_FOLLOWED_WORK))
        started = time.perf_counter()
        submitted = await self._caller.call(_RUN, request, key=self._key("follow"), deadline=_ASK_SECONDS, wait=0)
        sightings: list[tuple[float, str]] = []
        response, seen = await self._caller.look(_RUN, submitted.operation)
        sightings.append((time.perf_counter() - started, _state(seen)))
        waits = 0
        while response is None:
            response, seen = await self._caller.wait(_RUN, submitted.operation)
            sightings.append((time.perf_counter() - started, _state(seen)))
            waits += 1
        same = as_probed(response).payload == payload
        return Followed(submitted.operation, submitted.seconds, sightings, waits, same)

    async def repeat(self, first: Outcome) -> Repeated:
        """Ingest a document again, as it is, by a call of its own. Raises CallFailed."""
        again = await self._ingest(first.document, self._key("repeat", first.document.path))
        same = (again.document_id, again.digest, again.chunks) == (first.document_id, first.digest, first.chunks)
        return Repeated(first.document.path, first.operation, again.operation, again.changed, same)

    async def costs(self, made: int) -> Costs:
        """Ask what it cost. Raises CallFailed."""
        sums = (await self._caller.spend()).sums
        return Costs(
            [Cost(each.model, each.calls, each.input_tokens, each.cost, each.currency) for each in sums],
            made,
        )

    async def _ingest(self, document: Document, key: str) -> Outcome:
        request = self._caller.request(example.INGEST, path=document.path, content=document.content)
        reply = await self._caller.call(example.INGEST, request, key=key, deadline=_INGEST_SECONDS)
        result = as_ingested(reply.response or await self._caller.finish(example.INGEST, reply.operation))
        return Outcome(
            document,
            reply.operation,
            reply.response is not None,
            result.document_id,
            result.digest,
            result.chunks,
            result.changed,
        )

    def _key(self, step: str, subject: str = "") -> str:
        # Metadata is ASCII and short; paths and questions need not be.
        return f"{self._run}-{step}-{hashlib.sha256(subject.encode()).hexdigest()[:16]}"


def _duration(delta: timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(delta)
    return duration


def _state(seen: job_pb2.JobMetadata) -> str:
    return job_pb2.JobState.Name(seen.state).removeprefix("JOB_STATE_")
