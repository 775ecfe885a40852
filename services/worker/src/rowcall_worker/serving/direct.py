"""Whether the running handler is served directly, by a gRPC server and not by a worker. Set by `served`, asked by `model_calls`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_direct: Final[ContextVar[bool]] = ContextVar("rowcall_direct", default=False)


def is_direct() -> bool:
    """Whether it is, as far as an interceptor of ours has seen."""
    return _direct.get()


@contextmanager
def direct() -> Iterator[None]:
    """For the length of a handler's call."""
    token = _direct.set(True)
    try:
        yield
    finally:
        _direct.reset(token)
