"""Logging, set up once per process: structlog to stderr, JSON in production, readable text in development.

Services call `configure` at their start and `structlog.get_logger()` where they log. What libraries log through the
standard library (grpc, psycopg, asyncio) takes the same way out. Every line within a call has its trace_id,
request_id, tenant, actor, job and attempt, with its span_id, taken from `rowcall.context`.

Policy: only the fields of `FIELDS` are written, so that a payload does not reach a log by a slip; the names of
others are listed in the line's `unlisted`, without their values. In JSON an exception is its type and where it was
raised, cause by cause: its message may quote a request or a statement. The console shows tracebacks in full.

A line that is written for every call may be put together by hand and left to be written with its neighbours
(`hot_lines`): one write for many lines, before any other line and within milliseconds. A process that is killed loses
the lines of its last milliseconds, one that ends loses none.

A process that holds several services (`rowcall serve`) says whose a line is: `speak_for` has the lines of a context and of
all that is started in it be one's, so that they read as if that service were alone.

Nobody waits for the reader of a log (`rowcall.stderr`): what it does not take in time is dropped, counted and told of.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import sys
import traceback
from collections import deque
from collections.abc import MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Final, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from rowcall import context, stderr

LEVELS: Final = ("debug", "info", "warning", "error")
"""What a log level can be set to, the most lines first."""

FIELDS: Final = frozenset(
    {
        # The line itself.
        *("event", "level", "timestamp", "logger", "service", "process", "part", "unlisted"),
        # Who and in which trace.
        *(
            "trace_id",
            "span_id",
            "request_id",
            "tenant",
            "actor",
            "credential",
            "job",
            "operation",
            "operations",
            "attempt",
        ),
        # What it is about, by name.
        *("method", "methods", "service_names", "queue", "queues", "shard", "shards", "lane", "worker", "worker_id"),
        *("workload", "pool", "link", "role", "database", "databases", "kind", "phase", "migration", "channel"),
        *("issuer", "keys", "known", "left_out", "kept", "kept_for_s"),
        *("chain", "place", "hash", "fingerprint", "bound", "revision"),
        *("file", "image", "images", "servicer", "name", "key", "setting", "task", "tasks", "threads", "signal"),
        *("address", "host", "names", "port", "peer", "pid", "version"),
        # What came of it.
        *("code", "reason", "state", "outcome", "error", "cause", "exception", "warning", "problems", "sqlstate"),
        *("origin", "exit_code", "wrong", "lacks", "login_is", "durability"),
        # How much and how long; the unit is in the name.
        *("count", "limit", "size", "epoch", "lease", "lost", "claimed", "settled", "rescued", "promoted", "waiters"),
        *("in_flight", "jobs", "connections", "allowed", "kinds", "refused"),
        *("size_bytes", "limit_bytes", "request_bytes", "response_bytes"),
        *("duration_ms", "wait_ms", "delay_ms", "seconds", "grace_s", "lease_s", "deadline_ms", "days", "until"),
    }
)
"""The fields that lines may have; none of them ever holds a request, a response, a statement or a secret."""

_WRITE_AFTER: Final = 0.005
"""Seconds that a hot line waits for others: at full speed some ten come along, and a person sees no delay."""

_MAX_FRAMES: Final = 12
_MAX_CAUSES: Final = 4

# The one list that every logger holds, changed in place: a logger that was used before keeps it.
_PROCESSORS: Final[list[Processor]] = []
_PENDING: Final[deque[str]] = deque()

_speaker: Final[ContextVar[str | None]] = ContextVar("rowcall_speaker", default=None)
"""The service whose the lines of this context are; None: the process's."""


def speak_for(service: str) -> None:
    """Has the lines of this context, and of tasks that are started in it from now on, say that they are this service's.

    For one of several services in a process; where the process is that service, `configure` has said so.
    """
    _speaker.set(service)


class HotLines:
    """Writes JSON lines that their module has made itself. For one event loop."""

    def __init__(self, service: str, process: int | None, part: str | None = None) -> None:
        self._service = service
        self._place = ("" if process is None else f', "process": {process}') + (
            "" if part is None else f', "part": "{part}"'
        )

    @property
    def origin(self) -> str:
        """Members of each line: whose it is."""
        return f'"service": "{_speaker.get() or self._service}"{self._place}'

    def write(self, line: str) -> None:
        """Writes a line of the level "info", its newline included, at once or soon."""
        if not _PENDING:
            try:
                asyncio.get_running_loop().call_later(_WRITE_AFTER, _hand_on)
            except RuntimeError:
                sys.stderr.write(line)
                return
        _PENDING.append(line)


_hot: HotLines | None = None
_hot_processor: Processor | None = None


def hot_lines() -> HotLines | None:
    """What takes lines that are made by hand; None where they must be left to structlog: as text for people, below the
    level, or when somebody else has taken the lines over (a test that captures them)."""
    ours = structlog.get_config()["processors"] is _PROCESSORS and _PROCESSORS[-1] is _hot_processor
    return _hot if ours else None


def flush() -> None:
    """Writes what waits to be written, for a second at most. A process that ends by other means than `sys.exit` calls it
    before."""
    _hand_on()
    sys.stderr.flush()


def _hand_on() -> None:
    """Gives the hot lines that wait to standard error."""
    lines = []
    # One by one: a line of another thread may be written at the same time.
    while _PENDING:
        try:
            lines.append(_PENDING.popleft())
        except IndexError:
            break
    if lines:
        sys.stderr.write("".join(lines))


def configure(
    level: str,
    format: Literal["json", "console"],  # noqa: A002  the setting's name
    service: str,
    *,
    process: int | None = None,
    part: str | None = None,
) -> None:
    """Sends every log line of the process to stderr. Call it once, before anything logs.

    Args:
        level: "debug", "info", "warning" or "error": the least that is written.
        format: One JSON object a line, or text for people.
        service: The process's kind, in every line: "gateway", "worker", …
        process: Which of several processes of one command it is, in every line; None: it is the only one.
        part: What this process alone is for, in every line; None: for what its kind does.

    Raises:
        ValueError: The level or the format is not one of these.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is not one of {', '.join(LEVELS)}")
    if format not in ("json", "console"):
        raise ValueError(f"log format {format!r} is neither json nor console")
    number = logging.getLevelNamesMapping()[level.upper()]
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _Service(service, process, part),
        _add_call,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Processor] = (
        [_place_exception, _only_listed, structlog.processors.JSONRenderer()]
        if format == "json"
        else [_only_listed, _console()]
    )
    _PROCESSORS[:] = [*common, *final]
    global _hot, _hot_processor  # noqa: PLW0603 - logging is the process's, like structlog's own configuration
    _hot = HotLines(service, process, part) if format == "json" and number <= logging.INFO else None
    _hot_processor = final[-1]
    stderr.put_in_place(partial(_dropped, service, process, part, as_json=format == "json"))
    atexit.register(flush)
    stream = cast("TextIO", _Stderr())
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, _first_line, *common],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    logging.captureWarnings(capture=True)


def _dropped(service: str, process: int | None, part: str | None, count: int, *, as_json: bool) -> str:
    """What is written in the place of so many lines that nobody has taken in time."""
    time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    what = "log lines dropped: they were not taken in time"
    if not as_json:
        return f"{time} [warning  ] {what} count={count}\n"
    line = {"event": what, "count": count, "service": service, "level": "warning", "timestamp": time}
    where = {"process": process, "part": part}
    return json.dumps({**line, **{name: value for name, value in where.items() if value is not None}}) + "\n"


def _console() -> structlog.dev.ConsoleRenderer:
    # The traceback as Python writes it: the other formatters show local variables, and with them requests.
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)


class _Stderr:
    """Whatever sys.stderr is when a line is written: a test or a supervisor may replace it after `configure`."""

    def write(self, text: str) -> int:
        _hand_on()
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Waits for nobody: loggers flush behind every line."""


class _Service:
    """Puts the process's kind into a line, which of several it is, and what it alone is for."""

    def __init__(self, service: str, process: int | None, part: str | None) -> None:
        self._service = service
        self._process = process
        self._part = part

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("service", _speaker.get() or self._service)
        if self._process is not None:
            event.setdefault("process", self._process)
        if self._part is not None:
            event.setdefault("part", self._part)
        return event


def _add_call(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Puts the current call into a line; what the line says itself stands."""
    call = context.current()
    if call is not None:
        event.setdefault("trace_id", call.trace.trace_id)
        event.setdefault("request_id", call.request_id)
        event.setdefault("tenant", call.tenant)
        event.setdefault("actor", call.actor)
        if call.operation is not None:
            event.setdefault("job", call.operation)
        if call.attempt is not None:
            event.setdefault("attempt", call.attempt)
            event.setdefault("span_id", call.trace.span_id)
    return event


def _only_listed(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Takes fields that are not on the list out of a line and says so. The console's traceback is not a field."""
    unlisted = [name for name in event if name not in FIELDS and name not in ("exc_info", "stack_info")]
    if unlisted:
        for name in unlisted:
            del event[name]
        event["unlisted"] = sorted(unlisted)
    return event


def _first_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keeps a library's message to its first line: asyncio and psycopg put what we do not log into the next ones."""
    text = str(event.get("event", ""))
    event["event"] = text.split("\n", 1)[0]
    return event


def _place_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replaces an exception by its type and its place, and those of its causes."""
    error = _exception(event.pop("exc_info", None))
    event.pop("stack_info", None)
    if error is not None:
        event["exception"] = describe(error)
    return event


def _exception(exc_info: bool | BaseException | ExcInfo | None) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1]
    return sys.exc_info()[1] if exc_info else None


def describe(error: BaseException) -> list[MutableMapping[str, str | list[str]]]:
    """An exception and its causes, outermost first, as types and places: no messages, no source lines, no values."""
    described: list[MutableMapping[str, str | list[str]]] = []
    link: BaseException | None = error
    while link is not None and len(described) < _MAX_CAUSES:
        frames = traceback.extract_tb(link.__traceback__)[-_MAX_FRAMES:]
        described.append(
            {
                "type": f"{type(link).__module__}.{type(link).__qualname__}",
                "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
            }
        )
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return described
