"""The gateway as the commands reach it: the flags that say where it is and for whom, the channel, its errors in words.

Used by `jobs`, `queues`, `methods`, `tenants`, `revocations`, `submit` and `probe`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Annotated

import grpc
import typer
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from rowcall.errors import DOMAIN, grpc_code, our_reason, read_envelope, reason_name, status_of
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.reach import flags
from rowcall_cli.reach.channel import open_one, stamp
from rowcall_cli.reach.trouble import trouble

AddressOption = Annotated[
    str, typer.Option("--address", envvar="ROWCALL_ADDRESS", metavar="HOST:PORT", help="Where the gateway listens.")
]
TenantOption = Annotated[
    str, typer.Option("--tenant", envvar="ROWCALL_TENANT", metavar="NAME", help="The tenant to call for.")
]

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TENANT = "default"
RPC_SECONDS = 30.0
"""How long a command waits for an answer that needs no job to finish."""

_STILL_RUNNING = reason_name(ErrorReason.ERROR_REASON_STILL_RUNNING)
_TENANT_REQUIRED = reason_name(ErrorReason.ERROR_REASON_TENANT_REQUIRED)
_IDENTITY_MISMATCH = reason_name(ErrorReason.ERROR_REASON_IDENTITY_MISMATCH)


class Gateway:
    """An open channel to a gateway, and the identity to call it with."""

    address: str
    """host:port"""
    tenant: str
    """Whose jobs are looked at; empty: whoever's the credential says."""

    def __init__(self, address: str, tenant: str) -> None:
        self.address = address
        self.tenant = tenant
        self._stamp = stamp(flags.current())
        self._channels = [open_channel(address)]

    @property
    def channel(self) -> grpc.Channel:
        """The channel. A new one if the files of its certificates have been exchanged: gRPC's own cannot take others. The
        earlier ones stay open, for who has a stub of them."""
        now = stamp(flags.current())
        if now != self._stamp:
            # Where the new files do not belong together, they are just being exchanged.
            with suppress(CommandError):
                self._channels.append(open_channel(self.address))
                self._stamp = now
        return self._channels[-1]

    def metadata(self, *more: tuple[str, str]) -> tuple[tuple[str, str | bytes], ...]:
        """The metadata of a call. The token is not in it: the channel sends it."""
        if not self.tenant and flags.current().has_credential:
            return more
        return (("rowcall-tenant", self.tenant), *more)

    def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels:
            channel.close()


def default_tenant() -> str:
    """The tenant of a command that was told of none: with a credential none, for that says it, else the default."""
    return "" if flags.current().has_credential else DEFAULT_TENANT


def whose(tenant: str) -> str:
    """A tenant in what people read."""
    return f"the tenant {tenant}" if tenant else "this caller's tenant"


@contextmanager
def connect(address: str, tenant: str) -> Iterator[Gateway]:
    """Open a channel for a command, and turn gRPC's errors into words and exit codes.

    Raises CommandError: USAGE when a file of TLS or the token is not what it must be, UNREACHABLE when nobody answers, UNFINISHED
    when the job goes on, INTERRUPTED by Ctrl-C, else FAILED.
    """
    gateway = Gateway(address, tenant)
    try:
        yield gateway
    except grpc.RpcError as error:
        raise explain(error, address) from error
    except KeyboardInterrupt as interrupt:
        # The gateway may have begun already, and is not told to undo anything.
        raise CommandError(
            "Interrupted before the command was done. What the gateway was asked for may be done all the same.",
            ExitCode.INTERRUPTED,
        ) from interrupt
    finally:
        gateway.close()


def open_channel(address: str) -> grpc.Channel:
    """A channel to a gateway, as the command's flags have it; it connects at its first call. Raises CommandError (USAGE)."""
    return open_one(address, flags.current())


def explain(error: grpc.RpcError, address: str) -> CommandError:
    """An RPC's error as a command's: reason and message, each violation, and what names the case in the logs."""
    status = status_of(error)
    info = read_envelope(status)
    code = grpc_code(status)
    if info is None:
        if code is grpc.StatusCode.UNAVAILABLE:
            todo = trouble(address, flags.current())
            return CommandError(
                f"No gateway answers at {address}: {status.message}\n"
                f"{todo or 'Start one (rowcall dev), or name another with --address or ROWCALL_ADDRESS.'}",
                ExitCode.UNREACHABLE,
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return CommandError(
                f"No gateway answered in time at {address}: {status.message}\n"
                "What it was asked for may be done all the same: look before you ask again.",
                ExitCode.UNREACHABLE,
            )
        return CommandError(f"{code.name}: {status.message}")
    lines = [f"{info.reason}: {status.message} ({code.name})"]
    lines += [f"  {one.field or 'request'}: {one.description}" for one in _violations(status)]
    if info.domain != DOMAIN:
        lines.append(f"  domain: {info.domain}")
    lines += [f"  {key}: {value}" for key, value in sorted(info.metadata.items())]
    todo = _todo(our_reason(info), code, info.metadata)
    if todo is not None:
        lines.append(todo)
    goes_on = our_reason(info) == _STILL_RUNNING
    return CommandError("\n".join(lines), ExitCode.UNFINISHED if goes_on else ExitCode.FAILED)


def _todo(reason: str, code: grpc.StatusCode, metadata: Mapping[str, str]) -> str | None:
    """Which flag it is that a gateway, which knows of metadata only, speaks of."""
    if reason == _TENANT_REQUIRED:
        return "Say whose: --tenant NAME, or ROWCALL_TENANT."
    if reason == _IDENTITY_MISMATCH and metadata.get("key") == "rowcall-tenant":
        return "It is sent for --tenant, for ROWCALL_TENANT, and for a tenant or job that the command names."
    if code is grpc.StatusCode.UNAUTHENTICATED and not flags.current().has_token:
        return "Say who calls: --token-file FILE, ROWCALL_TOKEN_FILE or ROWCALL_TOKEN."
    return None


def explain_status(status: Status) -> str:
    """A job's error in one line."""
    info = read_envelope(status)
    code = grpc_code(status).name
    return f"{info.reason}: {status.message} ({code})" if info is not None else f"{code}: {status.message}"


def _violations(status: Status) -> list[BadRequest.FieldViolation]:
    request = BadRequest()
    for detail in status.details:
        try:
            if detail.Unpack(request):
                return list(request.field_violations)
        except DecodeError:  # a handler's detail need not be what it says it is
            continue
    return []
