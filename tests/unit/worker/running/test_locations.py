"""Where a handler raised, as its row tells operators: one line of its own code, whatever it went through from there."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest

from rowcall_worker.running.locations import MAX_CHARS, raised_at

LIBRARY = """
    def deep():
        raise KeyError("secret")

    def decorated(function):
        def call(*arguments):
            return function(*arguments)
        return call
"""
HELPERS = """
    def check(library):
        library["deep"]()
"""
SERVICER = """
    class Base:
        def inherited(self, request, context):
            raise ValueError("secret")

    class Printer(Base):
        def itself(self, request, context):
            raise ValueError("secret")

        def library(self, request, context):
            request["deep"]()

        def helper(self, request, context):
            request["check"](request)

        def again(self, request, context):
            try:
                request["deep"]()
            except KeyError as error:
                raise RuntimeError("secret") from error
"""


def module(name: str, source: str) -> dict[str, Any]:
    """What a module of that name has."""
    made: dict[str, Any] = {"__name__": name}
    exec(compile(textwrap.dedent(source), "/secret/module.py", "exec"), made)
    return made


@pytest.fixture
def request_() -> dict[str, Any]:
    """A library of somebody else's, and a module of the handler's package."""
    return {**module("somebody.library", LIBRARY), "check": module("acme.printing.helpers", HELPERS)["check"]}


def raised(handler: Callable[..., object], request: object) -> BaseException:
    try:
        handler(request, None)
    except Exception as error:  # noqa: BLE001  any will do
        return error
    raise AssertionError("it did not raise")


@pytest.mark.parametrize(
    ("name", "location"),
    [
        ("itself", "acme.printing.servicer:Printer.itself:8"),
        ("inherited", "acme.printing.servicer:Base.inherited:4"),
        ("library", "acme.printing.servicer:Printer.library:11"),
        ("helper", "acme.printing.helpers:check:3"),
        ("again", "acme.printing.servicer:Printer.again:20"),
    ],
)
def test_it_is_the_innermost_line_of_the_handlers_own_package(
    request_: dict[str, Any], name: str, location: str
) -> None:
    handler = getattr(module("acme.printing.servicer", SERVICER)["Printer"](), name)
    assert raised_at(handler, raised(handler, request_)) == location


def test_wrapped_and_bound_handlers_are_found(request_: dict[str, Any]) -> None:
    handler = module("acme.printing.servicer", SERVICER)["Printer"]().itself
    wrapped = wraps(handler)(request_["decorated"](handler))
    assert raised_at(wrapped, raised(wrapped, request_)) == "acme.printing.servicer:Printer.itself:8"
    bound = partial(handler)
    assert raised_at(bound, raised(bound, request_)) == "acme.printing.servicer:Printer.itself:8"


def test_a_class_of_the_package_counts_where_the_method_is_from_elsewhere(request_: dict[str, Any]) -> None:
    base = module("somebody.servicer", SERVICER)["Base"]
    made = module("acme.printing.servicer", "def hook():\n    raise ValueError\n")
    child = type("Child", (base,), {"__module__": "acme.printing.servicer"})
    handler = child().inherited
    assert raised_at(handler, raised(handler, request_)) == "somebody.servicer:Base.inherited:4"
    calling = type("Calling", (base,), {"__module__": "acme.printing.servicer", "inherited": lambda *_: made["hook"]()})
    assert raised_at(calling().inherited, raised(calling().inherited, None)) == "acme.printing.servicer:hook:2"


def test_what_did_not_come_through_it_has_no_place(request_: dict[str, Any]) -> None:
    handler = module("acme.printing.servicer", SERVICER)["Printer"]().itself
    assert raised_at(handler, None) is None
    assert raised_at(handler, KeyError()) is None
    assert raised_at(handler, raised(lambda *_: request_["deep"](), None)) is None


def test_of_our_own_servicers_only_their_module_counts() -> None:
    servicer = module("rowcall_worker.probe", SERVICER)["Printer"]()
    ours = module("rowcall_worker.serving.context", LIBRARY)
    assert raised_at(servicer.library, raised(servicer.library, ours)) == "rowcall_worker.probe:Printer.library:11"


def test_it_is_bounded_and_can_be_kept() -> None:
    name = f"acme.{'very_' * 80}long.\udc80\0servicer"
    handler = module(name, SERVICER)["Printer"]().itself
    location = raised_at(handler, raised(handler, None))
    assert location is not None
    assert len(location) == MAX_CHARS
    assert location.startswith("…")
    assert location.endswith("servicer:Printer.itself:8")
    assert "\0" not in location
    location.encode()
