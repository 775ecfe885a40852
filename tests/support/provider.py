"""A provider that charges, with a ledger of its own: a file, a line for each call, written before it answers. And a servicer that
calls it, as a worker's process runs it: `--servicer tests.support.provider:register`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from decimal import Decimal
from pathlib import Path

from google.longrunning.operations_pb2 import Operation

from rowcall.probe.v1.probe_pb2 import AwaitRequest, AwaitResponse, EchoRequest, EchoResponse, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceServicer, add_ProbeServiceServicer_to_server
from rowcall_worker import Worker, telemetry

LEDGER = "PROVIDER_LEDGER"
"""The variable that names the ledger of a worker's process."""
NAME = "oracle"


class Provider:
    """Whom handlers call."""

    def __init__(self, ledger: Path) -> None:
        self.ledger = ledger

    def ask(self, price: str) -> str:
        """Answers, and charges: what the caller must record is what it is told here."""
        ledger = os.open(self.ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(ledger, f"{price}\n".encode())
        finally:
            os.close(ledger)
        return price

    @property
    def calls(self) -> list[Decimal]:
        """What each call cost, in their order."""
        return [Decimal(line) for line in self.ledger.read_text().splitlines()] if self.ledger.exists() else []


class Careful(ProbeServiceServicer):
    """Has what it spent written before it waits for long: for ever, as tests kill it."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def Echo(self, request: EchoRequest, context: object) -> EchoResponse:  # noqa: N802  the proto names it
        with telemetry.model_call(NAME, "delphi") as call:
            call.cost(self._provider.ask(request.payload.decode()), "EUR")
        assert await telemetry.flush()
        sys.stdout.write(f"paid {request.payload.decode()}\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nothing wakes it")

    async def Run(self, request: RunRequest, context: object) -> Operation:  # noqa: N802
        raise AssertionError("nobody runs it")

    async def Await(self, request: AwaitRequest, context: object) -> AwaitResponse:  # noqa: N802
        raise AssertionError("nobody awaits it")


def register(worker: Worker) -> None:
    """What `--servicer` names."""
    servicer = Careful(Provider(Path(os.environ[LEDGER])))
    add_ProbeServiceServicer_to_server(servicer, worker)
