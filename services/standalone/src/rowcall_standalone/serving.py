"""Whether a gateway really answers: its health service, asked over the wire as any client would. Used by `dev` and `demo`."""

from __future__ import annotations

from datetime import timedelta

import grpc
from grpc_health.v1 import health_pb2

from rowcall_standalone.errors import StandaloneError

CHANNEL_OPTIONS = (
    # Loopback is not to be reached through a proxy, whatever the environment says.
    ("grpc.enable_http_proxy", 0),
    # Started seconds ago: the first refused connection is no reason to wait for long.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
)
"""For channels to a gateway on this machine."""


async def wait_until_serving(channel: grpc.aio.Channel, address: str, within: timedelta) -> None:
    """Return when the gateway says that it serves.

    Raises StandaloneError when it does not within the time.
    """
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    try:
        answer = await check(health_pb2.HealthCheckRequest(), timeout=within.total_seconds(), wait_for_ready=True)
    except grpc.aio.AioRpcError as error:
        raise StandaloneError(
            f"The gateway on {address} does not answer: {error.code().name}, {error.details()}."
        ) from error
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise StandaloneError(f"The gateway on {address} says that it is {name}.")
