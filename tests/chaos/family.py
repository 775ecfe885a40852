"""The job types of the runs of traces, in the worker's process: with the arguments and variables `ARGUMENTS` and `VARIABLES`.

They are the probe's, with an Echo that does what handlers do in a trace: it logs, from a thread too, makes a span of its own, and raises or submits
children where its payload says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import Final

import grpc.aio
import structlog
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from opentelemetry import trace

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import add_ProbeServiceServicer_to_server
from rowcall_worker import JobContext, Worker
from rowcall_worker.probe import ProbeServicer
from tests.support.places import ROOT

ARGUMENTS: Final = ("--servicer", "tests.chaos.family:register")
VARIABLES: Final[Mapping[str, str]] = {
    "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    "ROWCALL_ATTEMPT_LINES": "all",
}

SCOPE: Final = "tests.family"
"""Of the spans that handlers make themselves."""
LOOKED: Final = "looked"
"""What a handler logs; and what a thread of it does."""

RAISE: Final = b"raise"
"""Raises what is no status."""
PARENT: Final = b"parent"
"""Submits a job that is a parent of one, and one that fails once."""
MIDDLE: Final = b"middle"
"""Submits one job."""

_PROBE: Final = "rowcall.probe.v1.ProbeService"
_log = structlog.get_logger(__name__)


class Family(ProbeServicer):
    """The probe's servicer, whose Echo has children."""

    async def Echo(  # noqa: N802  the proto names it
        self, request: EchoRequest, context: grpc.aio.ServicerContext[Message, Message]
    ) -> EchoResponse:
        """Answers with the payload it got, unless that says otherwise."""
        assert isinstance(context, JobContext)
        with trace.get_tracer(SCOPE).start_as_current_span("look"):
            _log.info(LOOKED)
            await asyncio.to_thread(logging.getLogger(SCOPE).warning, LOOKED)
        if request.payload == RAISE:
            raise KeyError(request.payload)
        if request.payload == PARENT:
            context.submit(f"{_PROBE}/Echo", EchoRequest(payload=MIDDLE))
            context.submit(f"{_PROBE}/Run", RunRequest(fail_code=Code.UNAVAILABLE, fail_attempts=1))
        if request.payload == MIDDLE:
            context.submit(f"{_PROBE}/Echo", EchoRequest())
        return await super().Echo(request, context)


def register(worker: Worker) -> None:
    """Registers the servicer; the worker leaves its own probe out then."""
    add_ProbeServiceServicer_to_server(Family(worker.name), worker)
