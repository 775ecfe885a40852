"""`python -m rowcall_gateway.healthcheck`: asks the gateway of this machine whether it serves, for container health.

Reads ROWCALL_LISTEN as the gateway does, and asks grpc.health.v1 on the loopback. One line, exit code 0 or 1. It runs
every few seconds beside the gateway, so it imports little.
"""

from __future__ import annotations

import os
import sys
from typing import Final, cast

import grpc
from grpc_health.v1 import health_pb2

from rowcall_gateway.edge.address import DEFAULT_LISTEN, Address

TIMEOUT: Final = 2.0
"""Seconds."""

_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  recognised, not bound


def main() -> int:
    """Asks, says what came of it, and returns the exit code."""
    listen = os.environ.get("ROWCALL_LISTEN") or DEFAULT_LISTEN
    try:
        address = Address.parse(listen)
    except ValueError as error:
        return _say(f"ROWCALL_LISTEN {error}", 1)
    target = str(Address(_ANY.get(address.host, address.host), address.port))
    with grpc.insecure_channel(target, options=(("grpc.enable_http_proxy", 0),)) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        except grpc.RpcError as error:
            # Every error that a client raises is a Call too; the stubs know only one of the two.
            return _say(f"{target} does not answer: {cast('grpc.Call', error).code().name}", 1)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return _say(f"{target} is {status}", 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1)


def _say(line: str, exit_code: int) -> int:
    sys.stdout.write(f"rowcall-gateway: {line}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
