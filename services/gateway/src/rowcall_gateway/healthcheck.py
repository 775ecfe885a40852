"""`python -m rowcall_gateway.healthcheck`: asks the gateway of this machine whether it serves, for container health.

Reads ROWCALL_HEALTH_LISTEN, or else ROWCALL_LISTEN and ROWCALL_TLS_CERT, as the gateway does, and asks grpc.health.v1 on the loopback. One
line, exit code 0 or 1. It runs every few seconds beside the gateway, so it imports little.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final, cast

import grpc
from grpc_health.v1 import health_pb2

from rowcall.address import DEFAULT_LISTEN, Address

TIMEOUT: Final = 2.0
"""Seconds."""

_OPTIONS: Final = (("grpc.enable_http_proxy", 0),)

_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  recognised, not bound


def main() -> int:
    """Asks, says what came of it, and returns the exit code."""
    variable = "ROWCALL_HEALTH_LISTEN" if os.environ.get("ROWCALL_HEALTH_LISTEN") else "ROWCALL_LISTEN"
    listen = os.environ.get(variable) or DEFAULT_LISTEN
    cert = os.environ.get("ROWCALL_TLS_CERT") if variable == "ROWCALL_LISTEN" else None
    try:
        address = Address.parse(listen)
    except ValueError as error:
        return _say(f"{variable} {error}", 1)
    if cert and os.environ.get("ROWCALL_TLS_CLIENT_CA"):
        return _say(
            "callers of the port must show a certificate (ROWCALL_TLS_CLIENT_CA), and this check has none; set ROWCALL_HEALTH_LISTEN, such as "
            "127.0.0.1:50052, for gateway and check alike",
            1,
        )
    target = str(Address(_ANY.get(address.host, address.host), address.port))
    # gRPC's own lines about connections that fail say nothing that the one line does not.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        channel = _channel(target, cert)
    except (OSError, ValueError) as error:
        return _say(f"ROWCALL_TLS_CERT {cert!r} cannot be used: {error}", 1)
    with channel:
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


def _channel(target: str, cert: str | None) -> grpc.Channel:
    """Over TLS it trusts the certificates of the file, and nobody else, under a name of theirs."""
    if not cert:
        return grpc.insecure_channel(target, options=_OPTIONS)
    # Takes half as long again as the check itself; ROWCALL_HEALTH_LISTEN spares it.
    from rowcall_gateway.edge.tls import dns_name

    content = Path(cert).read_bytes()
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", dns_name(content)))
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(content), options=options)


def _say(line: str, exit_code: int) -> int:
    sys.stdout.write(f"rowcall-gateway: {line}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
