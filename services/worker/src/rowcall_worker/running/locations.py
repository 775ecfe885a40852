"""Where a handler raised: the place in its own code, for operators. Called by `executor` and `settlements`.

An error's text may hold what no error may, and tells nobody where it came from; the log has the whole traceback, as long as it is
kept. The row keeps one line of it: the innermost that is the handler's author's own, whatever library it went through from there.
"""

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import Final

from rowcall.errors import readable
from rowcall_worker.serving.handlers import Behaviour

MAX_CHARS: Final = 255
"""A longer location loses its beginning."""

_OURS: Final = frozenset({"rowcall", "rowcall_worker"})
"""Of a servicer that is in one of these (the probe's) only its own module counts."""


def raised_at(behaviour: Behaviour, error: BaseException | None) -> str | None:
    """Where an exception left the code of the handler's own package: "module:function:line", `MAX_CHARS` at most.

    The package is the topmost one of the module that the handler is in, or its servicer's class.

    Args:
        behaviour: The handler.
        error: What it raised.

    Returns:
        None where it did not raise, or the exception has not come through its package.
    """
    if error is None:
        return None
    own = _packages(behaviour)
    found: TracebackType | None = None
    module = ""
    traceback = error.__traceback__
    while traceback is not None:
        name = traceback.tb_frame.f_globals.get("__name__")
        if isinstance(name, str) and (name in own or name.partition(".")[0] in own):
            found, module = traceback, name
        traceback = traceback.tb_next
    if found is None:
        return None
    location = readable(f"{module}:{found.tb_frame.f_code.co_qualname}:{found.tb_lineno}")
    return location if len(location) <= MAX_CHARS else f"…{location[1 - MAX_CHARS :]}"


def _packages(behaviour: Behaviour) -> frozenset[str]:
    """The topmost packages that a handler's code is in; of ours its module."""
    while isinstance(behaviour, partial):
        behaviour = behaviour.func
    servicer = getattr(behaviour, "__self__", None)
    modules = (getattr(behaviour, "__module__", None), type(servicer).__module__)
    tops = ((name, name.partition(".")[0]) for name in modules if isinstance(name, str) and name != "builtins")
    return frozenset(name if top in _OURS else top for name, top in tops)
