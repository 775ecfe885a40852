"""docs/calling.md: what it tells callers to write works as it stands, for a tenant that is not the default one."""

from __future__ import annotations

import asyncio
import re
from importlib.resources import files
from typing import Any, Final

import pytest

from documents.v1.documents_pb2 import IngestDocumentResponse
from documents.v1.documents_pb2_grpc import DocumentServiceServicer, add_DocumentServiceServicer_to_server
from rowcall_worker import Worker, finished
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, jobs
from tests.fix_worker import Workers
from tests.support.places import ROOT

PAGE: Final = "docs/calling.md"
ADDRESS: Final = "127.0.0.1:50051"
"""Where the page has the gateway listen."""
AWAITED: Final = "WaitOperationRequest"
FUTURE: Final = "google.api_core"
BATCH: Final = "BatchSubmitRequest"


class Ingests(DocumentServiceServicer):
    """Takes a while, so that a caller has something to await."""

    async def IngestDocument(self, request: Any, context: Any) -> Any:  # noqa: N802  gRPC names it
        await asyncio.sleep(0.3)
        return finished(IngestDocumentResponse(document_id=request.path, chunks=len(request.content)))

    async def AskDocuments(self, request: Any, context: Any) -> Any:  # noqa: N802  gRPC names it
        raise NotImplementedError


def register(worker: Worker) -> None:
    add_DocumentServiceServicer_to_server(Ingests(), worker)


class Page:
    """The Python of the page, run in its order by a caller who has a gateway elsewhere."""

    def __init__(self, address: str) -> None:
        self._address = address
        text = (ROOT / PAGE).read_text()
        self._blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)

    async def run(self, *wanted: str) -> dict[str, Any]:
        """Runs the first block, which the others build on, and those that hold these words; the names they leave."""
        first, *others = self._blocks
        chosen = [next(block for block in others if word in block) for word in wanted]
        assert ADDRESS in first
        names: dict[str, Any] = {}

        def run() -> None:
            try:
                for block in (first.replace(ADDRESS, self._address), *chosen):
                    exec(compile(block, PAGE, "exec"), names)
            finally:
                if "channel" in names:
                    names["channel"].close()

        await asyncio.to_thread(run)
        return names


@pytest.fixture
async def page(gateways: Gateways, workers: Workers) -> Page:
    gateway = await gateways.start(images=(files("documents_example") / "documents.binpb",))
    await workers.start(register)
    return Page(gateway.address)


def test_every_example_of_the_page_is_run_here() -> None:
    blocks = Page(ADDRESS)._blocks
    assert [[word for word in (AWAITED, FUTURE, BATCH) if word in block] for block in blocks] == [
        [AWAITED],
        [FUTURE],
        [BATCH],
    ]


async def test_an_operation_is_awaited(page: Page, cluster: Cluster) -> None:
    names = await page.run()

    assert names["response"] == IngestDocumentResponse(document_id="a.txt", chunks=20)
    assert jobs(cluster, "tenant, state") == [("acme", "SUCCEEDED")]


async def test_an_operation_is_a_future_of_google_api_core(page: Page, cluster: Cluster) -> None:
    names = await page.run(FUTURE)

    assert names["response"] == IngestDocumentResponse(document_id="a.txt", chunks=20)
    assert names["future"].operation.name == names["started"].name
    assert jobs(cluster, "tenant, state") == [("acme", "SUCCEEDED")] * 2


async def test_many_are_submitted_at_once(page: Page, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    names = await page.run(BATCH)

    assert [result.joined for result in names["answer"].results] == [False, False]
    found = jobs(cluster, "request_id, tenant, labels, name")[1:]
    assert found == [
        (f"import-7/{path}", "acme", {"import": "7"}, result.operation.name)
        for path, result in zip(("a.txt", "b.txt"), names["answer"].results, strict=True)
    ]
    assert "import-7/b.txt" in capsys.readouterr().out
