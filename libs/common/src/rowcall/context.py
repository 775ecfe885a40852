"""Who calls and in which trace, for everything that one call or attempt does.

The gateway binds it at the edge, the worker when it runs an attempt; handlers, log lines and errors read it.
It is a context variable: it follows awaits, child tasks and `asyncio.to_thread` by itself, and an executor through
`contextvars.copy_context().run`.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final, NamedTuple, Protocol

from rowcall.tracing import TraceContext


class CallContext(NamedTuple):
    """The identity and the trace of one call, or of one attempt at the job it became."""

    tenant: str
    """Whose call it is."""
    actor: str | None
    """Who triggered it."""
    request_id: str | None
    """The caller's idempotency key."""
    trace: TraceContext
    """Where in which trace."""
    operation: str | None = None
    """The job's name, once there is one."""
    attempt: int | None = None
    """Which attempt, from 1; None at the gateway."""


class Bearer(Protocol):
    """What knows a call, and need not say it before somebody asks: most attempts are never asked."""

    @property
    def call(self) -> CallContext:
        """The call; the same each time."""


_current: Final[ContextVar[CallContext | Bearer | None]] = ContextVar("rowcall_call", default=None)


def current() -> CallContext | None:
    """The call that the running code belongs to; None outside of one."""
    found = _current.get()
    return found if found is None or isinstance(found, CallContext) else found.call


def bearer() -> Bearer | None:
    """What bears the call that the running code belongs to, where something does: an attempt at a job."""
    found = _current.get()
    return None if found is None or isinstance(found, CallContext) else found


def enter(bearer: Bearer) -> None:
    """Makes its call the current one for the rest of the running context, which must be nobody else's."""
    _current.set(bearer)


class bind:  # noqa: N801  used as a verb: with bind(call): …
    """Makes a call the current one for the length of a `with` block; the one before it comes back afterwards."""

    __slots__ = ("_call", "_token")

    def __init__(self, call: CallContext) -> None:
        self._call = call
        self._token: Token[CallContext | Bearer | None] | None = None

    def __enter__(self) -> CallContext:
        if self._token is not None:
            raise RuntimeError("this binding is in use; make another with bind(call)")
        self._token = _current.set(self._call)
        return self._call

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
            self._token = None
