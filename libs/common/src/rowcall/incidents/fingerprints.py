"""Which failures are the same. Called by `recorder`.

The same are: the same service, method and code, the same types of the exception and its causes, raised by way of the same functions.
Line numbers are not in it, so that it stays the same over releases that move code; nor are frames of libraries, which others release.
The text of an exception is never looked at: it may hold payload, and it differs each time.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Final, NamedTuple

from rowcall.errors import RowcallError, readable, reason_name

MAX_CHARS: Final = 255
"""Of a kind and a location."""

_CAUSES: Final = 8
"""As many causes are looked at: a chain may be a circle."""

_FRAMES: Final = 6
"""Functions that count, of each exception the innermost."""


class Shape(NamedTuple):
    """What of an exception says which one it is."""

    kind: str
    """Types."""
    location: str
    """ "module:function:line"; empty if it is not known."""
    way: str
    """Functions, without lines."""


def shape(error: BaseException) -> Shape:
    """What of an exception says which one it is."""
    links = list(_links(error))
    kind = " < ".join(map(_kind, links))
    location = ""
    way: list[str] = []
    for link in links:
        frames = list(_frames(link.__traceback__))
        way += [f"{module}:{function}" for module, function, _ in frames[-_FRAMES:]]
        if frames:
            # The innermost of the cause: there it began.
            location = "{}:{}:{}".format(*frames[-1])
    return Shape(_short(kind), _short(location), "\n".join(way))


def fingerprint(service: str, method: str, code: int, of: Shape) -> str:
    """The same for all that are the same: 32 hexadecimal digits."""
    said = "\n".join((service, method, str(code), of.kind, of.way))
    return hashlib.sha256(said.encode(errors="replace")).hexdigest()[:32]


def _links(error: BaseException) -> Iterator[BaseException]:
    """An exception and what is behind it: its cause, or what it was raised while handling."""
    link: BaseException | None = error
    for _ in range(_CAUSES):
        if link is None:
            return
        yield link
        link = link.__cause__ if link.__cause__ is not None or link.__suppress_context__ else link.__context__


def _kind(error: BaseException) -> str:
    name = type(error).__qualname__
    if isinstance(error, RowcallError):
        return f"{name}({reason_name(error.reason)})"
    sqlstate = getattr(error, "sqlstate", None)
    return f"{name}({sqlstate})" if isinstance(sqlstate, str) else name


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, str, int]]:
    """Module, function and line of every frame that is no library's."""
    while traceback is not None:
        frame = traceback.tb_frame
        module = frame.f_globals.get("__name__")
        if isinstance(module, str) and not _is_library(module, frame.f_code.co_filename):
            yield module, frame.f_code.co_qualname, traceback.tb_lineno
        traceback = traceback.tb_next


def _is_library(module: str, file: str) -> bool:
    top = module.partition(".")[0]
    if top.startswith("rowcall"):
        return False
    return top in sys.stdlib_module_names or "site-packages" in file or "dist-packages" in file


def _short(text: str) -> str:
    text = readable(text)
    return text if len(text) <= MAX_CHARS else f"…{text[1 - MAX_CHARS :]}"
