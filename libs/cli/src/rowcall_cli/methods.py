"""`rowcall methods`: methods paused and resumed, through the gateway's CatalogueService."""

from __future__ import annotations

from typing import Annotated

import typer

from rowcall.v1 import catalogue_service_pb2, catalogue_service_pb2_grpc
from rowcall_cli.gateway import (
    DEFAULT_ADDRESS,
    DEFAULT_TENANT,
    RPC_SECONDS,
    AddressOption,
    Gateway,
    TenantOption,
    connect,
)
from rowcall_cli.output import examples
from rowcall_cli.pausing import NoteOption, PauserOption, by, say_paused, say_resumed

app = typer.Typer(no_args_is_help=True, help="Pause methods and resume them.")

MethodArgument = Annotated[
    str, typer.Argument(metavar="METHOD", help="The method: package.Service/Method.", show_default=False)
]


@app.command(
    epilog=examples('rowcall methods pause documents.v1.DocumentService/IngestDocument --note "it runs out of memory"')
)
def pause(
    name: MethodArgument,
    *,
    note: NoteOption = "",
    actor: PauserOption = None,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: TenantOption = DEFAULT_TENANT,
) -> None:
    """Pause a method, for all tenants: none of its jobs is started from now on, in whichever queue.

    What runs goes on, and calls are still taken. A pause that is there already stays as it is. Exits with 1 when it could not be
    done on every shard; do it again then.
    """
    with connect(address, tenant) as gateway:
        request = catalogue_service_pb2.PauseMethodRequest(name=name, note=note)
        _stub(gateway).PauseMethod(request, timeout=RPC_SECONDS, metadata=gateway.metadata(*by(actor)))
    say_paused("method", name)


@app.command(epilog=examples("rowcall methods resume documents.v1.DocumentService/IngestDocument"))
def resume(
    name: MethodArgument, *, address: AddressOption = DEFAULT_ADDRESS, tenant: TenantOption = DEFAULT_TENANT
) -> None:
    """End a method's pause, if there is one.

    Exits with 1 when it could not be done on every shard; do it again then.
    """
    with connect(address, tenant) as gateway:
        request = catalogue_service_pb2.ResumeMethodRequest(name=name)
        _stub(gateway).ResumeMethod(request, timeout=RPC_SECONDS, metadata=gateway.metadata())
    say_resumed("method", name)


def _stub(gateway: Gateway) -> catalogue_service_pb2_grpc.CatalogueServiceStub:
    return catalogue_service_pb2_grpc.CatalogueServiceStub(gateway.channel)
