"""For every test of the repository: the folder under tests/ is the marker that `make test-NAME` selects by."""

import os
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import structlog
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# Tests start programs while gRPC's threads run. gRPC's handlers for processes that fork and go on using it are of no use
# to those, and can end them before they begin.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

TESTS = Path(__file__).parent / "tests"

# An example that takes long on a busy machine has found nothing: the time limit of a test is pytest's.
settings.register_profile("rowcall", deadline=None)
settings.load_profile("rowcall")

# Services that run in a test's own process log as structlog has it where nobody configures it. Where rich is installed, and a tool of
# ours needs it, that is tracebacks with the variables of every frame: up to a second of a processor for each, in the event loop.
structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback


USES_ACCESS = frozenset({"cluster", "logins", "restartable_cluster"})
"""The fixtures whose services reach their databases as the run says."""


class _Scheduling(LoadFileScheduling):
    """A file is run by one process, and so are all that break things, one after another: each of those has up to nine processes
    that work, and two of them side by side would be a machine that is busier than any they are about."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "tests/chaos" if file.startswith("tests/chaos/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Scheduling | None:
    """Who runs what, where several processes run tests by their files (`make test`)."""
    return _Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


def _program(text: str) -> Path:
    if not os.access(text, os.X_OK):
        raise ArgumentTypeError(f"{text} is not a program that can be executed")
    return Path(text).resolve()


def pytest_addoption(parser: pytest.Parser) -> None:
    """How services reach their databases in this run; `make test-postgres` runs all of them."""
    group = parser.getgroup("rowcall")
    group.addoption(
        "--pgbouncer",
        type=_program,
        metavar="PROGRAM",
        help="services go through this PgBouncer, in transaction mode (with =, or pytest takes it for a folder of tests)",
    )
    group.addoption(
        "--prepared", action="store_true", help="with --pgbouncer of 1.21 or later: statements are prepared through it"
    )
    group.addoption("--no-hints", action="store_true", help="services use no NOTIFY")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives each test the marker of its folder; a folder that pyproject.toml does not list is an error.

    Where services reach their databases in another way, tests without a service are left out, and tests of what that way
    cannot do by its nature are skipped with the reason they give.
    """
    for item in items:
        if item.path.is_relative_to(TESTS):
            folder = item.path.relative_to(TESTS).parts[0]
            item.add_marker(getattr(pytest.mark, folder))
    pooled, hints = bool(config.getoption("--pgbouncer")), not config.getoption("--no-hints")
    if hints and not pooled:
        return
    takes_part = [bool(USES_ACCESS.intersection(getattr(item, "fixturenames", ()))) for item in items]
    config.hook.pytest_deselected(items=[item for item, takes in zip(items, takes_part, strict=True) if not takes])
    items[:] = [item for item, takes in zip(items, takes_part, strict=True) if takes]
    for item in items:
        for marker in [*item.iter_markers("hinted"), *(item.iter_markers("straight") if pooled else ())]:
            item.add_marker(pytest.mark.skip(reason=f"{marker.name}: {marker.args[0]}"))
