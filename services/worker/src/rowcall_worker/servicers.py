"""Finds the functions that `--servicer module:function` names, and lets them register their servicers.

Called by `rowcall_worker.worker` at the start.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Protocol, cast

from rowcall_worker.serving.handlers import RegistrationError


class Registering(Protocol):
    """What servicers are registered on; a `rowcall_worker.Worker`."""

    @property
    def registered(self) -> int:
        """How many handlers were registered so far."""


def register(worker: Registering, servicer: str) -> None:
    """Calls the function "module:function" with the worker.

    Raises:
        RegistrationError: It cannot be found, or registers nothing; the message says what to do.
        Exception: What the function itself raises.
    """
    module_name, _, function_name = servicer.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise RegistrationError(
                f"--servicer {servicer}: module {module_name} needs {error.name}, which is not installed here"
            ) from error
        raise RegistrationError(
            f"--servicer {servicer}: there is no module {module_name}; install its package beside the worker, or name the "
            "folder it is in with PYTHONPATH"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise RegistrationError(
            f"--servicer {servicer}: module {module_name} has no function {function_name}; it is called with the worker "
            "and hands it to the generated add_...Servicer_to_server"
        )
    before = worker.registered
    cast("Callable[[Registering], None]", function)(worker)
    if worker.registered == before:
        raise RegistrationError(
            f"--servicer {servicer}: {function_name} registered nothing; call the generated "
            "add_...Servicer_to_server(servicer, worker) in it"
        )
