"""Draws docs/trace.svg: what `rowcall trace` shows of an action of the documents example, that is run for it (`make picture`).

The example runs as `rowcall demo` has it, on an embedded Postgres of its own, gateway and worker as processes: a document goes in and a
question is asked in one trace, one document that is no text among them. What is drawn is the command's own waterfall of what ActionService.GetAction answers.
"""

import asyncio
import io
import re
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console

from rowcall.catalogue.images import load_catalogue
from rowcall.catalogue.model import JobMethod
from rowcall.v1.action_service_pb2 import GetActionRequest, GetActionResponse
from rowcall.v1.action_service_pb2_grpc import ActionServiceStub
from rowcall_cli.trace import show
from rowcall_cli.waterfall import headline
from rowcall_standalone.demo import example
from rowcall_standalone.demo.report import Report
from rowcall_standalone.demo.system import running
from rowcall_standalone.errors import StandaloneError

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "trace.svg"
DOCUMENT = ROOT / "docs" / "actions.md"
TENANT = "acme"
WIDTH = 110
SECONDS = 60.0


async def traced(channel: grpc.aio.Channel, image: Path) -> GetActionResponse:
    """An action: a document that goes in, one that cannot be read, a question; when all of it has ended.

    Raises grpc.aio.AioRpcError, TimeoutError.
    """
    methods = load_catalogue([image]).methods
    trace = uuid.uuid4().hex
    content = DOCUMENT.read_bytes()
    await call(
        channel, methods["documents.v1.DocumentService/IngestDocument"], trace, path="docs/actions.md", content=content
    )
    await call(
        channel, methods["documents.v1.DocumentService/IngestDocument"], trace, path="photo.png", content=b"\x89PNG\xff"
    )
    await call(
        channel,
        methods["documents.v1.DocumentService/AskDocuments"],
        trace,
        question="What is below the attempt that submitted it?",
    )
    stub = ActionServiceStub(channel)
    async with asyncio.timeout(SECONDS):
        while True:
            answer: GetActionResponse = await stub.GetAction(
                GetActionRequest(trace_id=trace), timeout=SECONDS, metadata=(("rowcall-tenant", TENANT),)
            )
            # What was spent is there when its job has ended.
            if answer.HasField("duration") and answer.jobs == 3:
                return answer
            await asyncio.sleep(0.1)


async def call(channel: grpc.aio.Channel, method: JobMethod, trace: str, **fields: object) -> None:
    """One call, and its end."""
    request = method.request_class(**fields)
    made: Any = channel.unary_unary(method.path, request_serializer=type(request).SerializeToString)
    metadata = (
        ("rowcall-tenant", TENANT),
        ("traceparent", f"00-{trace}-{trace[:16]}-01"),
        ("prefer", f"wait={SECONDS:.0f}"),
    )
    await made(request, timeout=SECONDS, metadata=metadata)


def drawn(answer: GetActionResponse) -> str:
    """An action as a terminal of WIDTH columns shows it, as SVG that needs nothing from elsewhere."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    for name, value in headline(answer):
        console.print(f"[dim]{name:<6}[/dim]  {value}")
    console.print()
    show(answer, console)
    text = console.export_svg(title=f"rowcall trace {answer.trace_id} --tenant {TENANT}", unique_id="trace")
    # The font would come over the network; every system has one of its own.
    text = re.sub(r"\s*@font-face \{.*?\}\n", "\n", text, flags=re.DOTALL)
    return re.sub(r"font-family: Fira Code, monospace", "font-family: monospace", text)


async def main() -> int:
    """Runs the example and writes the picture; the exit code."""
    image = example.image()
    with tempfile.TemporaryDirectory(prefix="rowcall-picture-") as directory:
        try:
            async with running(Path(directory), image, Report(as_json=True), binaries=None) as system:
                answer = await system.while_alive(traced(system.channel, image))
        except (StandaloneError, grpc.aio.AioRpcError, TimeoutError) as error:
            print(f"trace_picture: {error}", file=sys.stderr)
            return 1
    PICTURE.write_text(drawn(answer))
    print(f"{PICTURE.relative_to(ROOT)}: {len(answer.nodes)} nodes of {answer.jobs} jobs")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
