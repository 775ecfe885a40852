"""A servicer that echoes and serves nothing else, so that jobs of the probe's other methods stay where they are."""

from __future__ import annotations

from typing import Any, cast

import grpc
import grpc.aio

from rowcall.probe.v1 import probe_pb2

_SERVICE = "rowcall.probe.v1.ProbeService"


async def _echo(request: probe_pb2.EchoRequest, _context: object) -> probe_pb2.EchoResponse:
    return probe_pb2.EchoResponse(payload=request.payload)


def register(worker: grpc.aio.Server) -> None:
    """For `--servicer tests.chaos.echo:register`."""
    handler = grpc.unary_unary_rpc_method_handler(
        cast("Any", _echo),  # the stubs know synchronous behaviours only
        request_deserializer=probe_pb2.EchoRequest.FromString,
        response_serializer=probe_pb2.EchoResponse.SerializeToString,
    )
    worker.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"Echo": handler}),))
