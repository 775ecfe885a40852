"""What is ours and blocks waits for no thread that handlers keep."""

from __future__ import annotations

import ast
import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from opentelemetry.sdk.resources import Resource

from rowcall.apart import in_thread
from rowcall.security import passwords
from rowcall.settings import Dsn
from rowcall.settings.dsn import with_password_file
from rowcall.telemetry.push import MetricsPush
from rowcall_gateway.edge.credentials.fetching import KeyFile
from tests.unit.telemetry.test_push import NEVER, Exporter

ROOT = Path(__file__).parents[2]
BEFORE_HANDLERS = ("databases.py", "dev.py", "demo/")
"""Of standalone: what happens before there are any, or where there are none."""
PATIENCE = 30.0

_named = contextvars.ContextVar("_named", default="")


@pytest.fixture
async def kept() -> AsyncIterator[None]:
    """All threads of asyncio's are kept, by handlers that wait for something that never answers."""
    go_on = threading.Event()
    executor = ThreadPoolExecutor(1)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(executor)
    keeping = loop.run_in_executor(None, go_on.wait)
    yield
    go_on.set()
    await keeping


@pytest.mark.usefixtures("kept")
async def test_a_password_is_read_where_handlers_keep_all_threads(tmp_path: Path) -> None:
    """Else a worker whose sessions were ended would never have one again, and keep its lease."""
    file = tmp_path / "password"
    file.write_text("geheim")

    async def open_one(_dsn: str, *, password: str) -> str:
        return password

    async with asyncio.timeout(PATIENCE):
        assert await passwords.connect(open_one, with_password_file(Dsn("dbname=a"), file)) == "geheim"
        assert await KeyFile(file).read() == b"geheim"


@pytest.mark.usefixtures("kept")
async def test_metrics_end_where_handlers_keep_all_threads() -> None:
    exporter = Exporter()
    push = MetricsPush(exporter, resource=Resource({}), every=NEVER)
    push.start([])
    async with asyncio.timeout(PATIENCE):
        await push.end()
    assert exporter.ended


async def test_it_runs_in_the_context_of_whoever_asks_and_raises_what_was_raised() -> None:
    _named.set("me")
    assert await in_thread(_named.get) == "me"
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 1, 0)


async def test_who_is_cancelled_does_not_wait_for_what_hangs() -> None:
    go_on = threading.Event()
    asking = asyncio.create_task(in_thread(go_on.wait))
    await asyncio.sleep(0)
    asking.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait({asking})
    assert asking.cancelled()
    go_on.set()


def test_nothing_of_ours_is_put_to_the_handlers_threads() -> None:
    found = []
    for file in sorted([*ROOT.glob("libs/*/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")]):
        path = str(file.relative_to(ROOT))
        if path.startswith("services/standalone") and path.split("rowcall_standalone/")[1].startswith(BEFORE_HANDLERS):
            continue
        found += [
            f"{path}:{node.lineno}"
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute) and node.attr == "to_thread"
        ]
    assert found == []
