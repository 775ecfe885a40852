"""Log lines: one object a line, the call in each, and nothing that is not on the list."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import structlog

from rowcall import logs
from rowcall.context import CallContext, bind
from rowcall.tracing import TraceContext
from tests.support.places import ROOT

SECRET = "4111-1111-1111-1111"
Capture = pytest.CaptureFixture[str]


pytestmark = pytest.mark.usefixtures("restored_logs")


def lines(capture: Capture) -> list[dict[str, Any]]:
    captured = capture.readouterr()
    assert captured.out == "", "standard output belongs to the program"
    return [json.loads(line) for line in captured.err.splitlines()]


def fail() -> None:
    """Raises an error that quotes a payload, caused by another."""
    try:
        json.loads(SECRET)
    except ValueError as error:
        raise LookupError(f"no card {SECRET}") from error


def test_line_has_the_process_and_the_call(capsys: Capture) -> None:
    logs.configure("info", "json", "gateway")
    trace = TraceContext.mint()
    with bind(CallContext("acme", "ada", "r-1", trace, operation="tenants/acme/operations/1", attempt=2)):
        structlog.get_logger().info("served", method="a.B/C", duration_ms=1.5)

    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "served",
        "level": "info",
        "service": "gateway",
        "method": "a.B/C",
        "duration_ms": 1.5,
        "trace_id": trace.trace_id,
        "request_id": "r-1",
        "tenant": "acme",
        "actor": "ada",
        "job": "tenants/acme/operations/1",
        "attempt": 2,
        "span_id": trace.span_id,
    }


async def test_a_line_is_of_the_service_that_speaks(capsys: Capture) -> None:
    """One process may hold several: what each of them starts speaks for it, and nothing else does."""
    logs.configure("info", "json", "serve", process=2)

    async def serve(service: str) -> None:
        logs.speak_for(service)
        await asyncio.create_task(asyncio.to_thread(structlog.get_logger().info, "from a task's thread"))
        hot = logs.hot_lines()
        assert hot is not None
        hot.write(f'{{"event": "hot", {hot.origin}}}\n')

    await asyncio.gather(serve("gateway"), serve("worker"))
    structlog.get_logger().info("of the process")

    found = sorted((line["event"], line["service"], line["process"]) for line in lines(capsys))
    assert found == [
        ("from a task's thread", "gateway", 2),
        ("from a task's thread", "worker", 2),
        ("hot", "gateway", 2),
        ("hot", "worker", 2),
        ("of the process", "serve", 2),
    ]


def test_line_outside_of_a_call_names_none(capsys: Capture) -> None:
    logs.configure("info", "json", "worker")
    with bind(CallContext("acme", None, None, TraceContext.mint())):
        pass
    structlog.get_logger().info("started")
    (line,) = lines(capsys)
    assert set(line) == {"event", "level", "service", "timestamp"}


def test_what_a_line_says_itself_stands(capsys: Capture) -> None:
    logs.configure("info", "json", "worker")
    with bind(CallContext("acme", None, None, TraceContext.mint())):
        structlog.get_logger().info("moved", tenant="other")
    assert lines(capsys)[0]["tenant"] == "other"


@pytest.mark.parametrize("format_", ["json", "console"])
def test_unlisted_fields_are_not_written(capsys: Capture, format_: Any) -> None:
    logs.configure("info", format_, "worker")
    structlog.get_logger().info("served", request=SECRET, count=1)
    logging.getLogger("psycopg").info("served", extra={"request": SECRET})
    text = capsys.readouterr().err
    assert SECRET not in text
    assert "unlisted" in text
    assert "count" in text


def logged_fields(source: str) -> Iterator[tuple[int, str]]:
    """The fields that a module gives to its loggers, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("debug", "info", "warning", "error", "exception", "critical", "bind", "new")
            and _name(node.func.value).strip("_").startswith("log")
        ):
            yield from ((node.lineno, word.arg) for word in node.keywords if word.arg is not None)


def _name(value: ast.expr) -> str:
    """What a logger is called, of the module's or of an object's own."""
    return value.id if isinstance(value, ast.Name) else value.attr if isinstance(value, ast.Attribute) else ""


def test_every_field_that_the_source_logs_is_listed() -> None:
    """A field that is missing in rowcall.logs.FIELDS would silently not be written: list it there, or log less."""
    modules = [path for part in ("libs", "services", "examples") for path in ROOT.glob(f"{part}/*/src/**/*.py")]
    fields = [
        (f"{path.relative_to(ROOT)}:{line}", field)
        for path in modules
        for line, field in logged_fields(path.read_text())
    ]
    assert len(fields) > 50, "the sources are where they are looked for"
    assert [(place, field) for place, field in fields if field not in logs.FIELDS | {"exc_info"}] == []


def test_names_of_unlisted_fields_are_written(capsys: Capture) -> None:
    logs.configure("info", "json", "worker")
    structlog.get_logger().info("served", request=SECRET, body=SECRET)
    assert lines(capsys)[0]["unlisted"] == ["body", "request"]


def test_exception_is_type_and_place(capsys: Capture) -> None:
    logs.configure("info", "json", "worker")
    try:
        fail()
    except LookupError:
        structlog.get_logger().exception("attempt failed")
        logging.getLogger("somewhere").exception("attempt failed")
    own, foreign = lines(capsys)
    assert [link["type"] for link in own["exception"]] == ["builtins.LookupError", "json.decoder.JSONDecodeError"]
    assert "test_logs.py" in own["exception"][0]["at"][-1]
    assert own["exception"][0]["at"][-1].endswith(" fail")
    assert own["exception"] == foreign["exception"]
    assert SECRET not in json.dumps([own, foreign])


def test_chain_that_the_raiser_cut_stays_cut() -> None:
    def cut() -> None:
        try:
            fail()
        except LookupError:
            raise ValueError("x") from None

    with pytest.raises(ValueError, match="x") as caught:
        cut()
    assert [link["type"] for link in logs.describe(caught.value)] == ["builtins.ValueError"]


def test_console_shows_the_traceback_without_variables(capsys: Capture) -> None:
    logs.configure("info", "console", "worker")

    def look_up(card: str) -> None:
        raise LookupError("no such card")

    try:
        look_up(SECRET)
    except LookupError:
        structlog.get_logger().exception("attempt failed")
    text = capsys.readouterr().err
    assert "LookupError: no such card" in text
    assert "test_logs.py" in text
    assert SECRET not in text


def test_libraries_take_the_same_way(capsys: Capture) -> None:
    logs.configure("info", "json", "gateway")
    trace = TraceContext.mint()
    with bind(CallContext("acme", None, None, trace)):
        logging.getLogger("a.library").warning("error connecting in %r: %s\n%s", "pool-1", "refused", SECRET)
    (line,) = lines(capsys)
    assert line["event"] == "error connecting in 'pool-1': refused"
    assert (line["logger"], line["level"], line["service"]) == ("a.library", "warning", "gateway")
    assert (line["tenant"], line["trace_id"]) == ("acme", trace.trace_id)


def test_warnings_are_lines_too(capsys: Capture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("info", "json", "gateway")
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    (line,) = lines(capsys)
    assert line["logger"] == "py.warnings"
    assert "DeprecationWarning: old way" in line["event"]


async def test_what_grpc_logs_of_a_failed_call_has_no_payload(capsys: Capture) -> None:
    logs.configure("info", "json", "gateway")

    async def handler(request: bytes, context: object) -> bytes:
        raise LookupError(f"no card {request.decode()}")

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(handler)  # type: ignore[var-annotated]
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"M": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/t.T/M", bytes, bytes)(SECRET.encode())
    await server.stop(None)
    captured = capsys.readouterr().err
    assert "LookupError" in captured
    assert SECRET not in captured


async def test_task_that_nobody_awaited_is_a_line_without_its_error(capsys: Capture) -> None:
    logs.configure("info", "json", "gateway")

    async def card() -> None:
        fail()

    task = asyncio.create_task(card())
    await asyncio.wait([task])
    asyncio.get_running_loop().call_exception_handler(
        {"message": "Task exception was never retrieved", "future": task, "exception": task.exception()}
    )
    (line,) = lines(capsys)
    assert line["event"] == "Task exception was never retrieved"
    assert SECRET not in json.dumps(line)


def test_level(capsys: Capture) -> None:
    logs.configure("warning", "json", "gateway")
    structlog.get_logger().info("no")
    logging.getLogger("grpc").info("no")
    structlog.get_logger().warning("yes")
    logging.getLogger("grpc").warning("yes")
    assert [line["event"] for line in lines(capsys)] == ["yes", "yes"]


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="log level 'loud' is not one of debug, info, warning, error"):
        logs.configure("loud", "json", "gateway")
    wrong: Any = "xml"
    with pytest.raises(ValueError, match="log format 'xml' is neither json nor console"):
        logs.configure("info", wrong, "gateway")


def test_logger_from_before_follows_too() -> None:
    """Modules make their loggers when they are imported, and a process is configured later; in one of its own."""
    program = """
import structlog
log = structlog.get_logger()
from rowcall import logs
logs.configure("info", "json", "worker")
log.info("first", x=1)
logs.configure("info", "json", "gateway")
log.info("second", x=1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second = (json.loads(line) for line in done.stderr.splitlines())
    assert (first["service"], second["service"]) == ("worker", "gateway")
    assert first["unlisted"] == second["unlisted"] == ["x"]
