"""`rowcall tenants`: tenants paused, resumed and weighed, through the gateway's TenantService."""

from __future__ import annotations

from typing import Annotated

import typer

from rowcall.names import parse_tenant_name, tenant_name
from rowcall.v1 import tenant_service_pb2, tenant_service_pb2_grpc
from rowcall_cli.gateway import DEFAULT_ADDRESS, RPC_SECONDS, AddressOption, Gateway, connect
from rowcall_cli.output import examples, say
from rowcall_cli.pausing import NoteOption, PauserOption, by, say_paused, say_resumed

app = typer.Typer(no_args_is_help=True, help="Pause tenants, resume them, and set their shares.")

TenantArgument = Annotated[
    str,
    typer.Argument(
        metavar="TENANT",
        help="The tenant: NAME, or tenants/NAME.",
        callback=lambda name: parse_tenant_name(name) or name,
        show_default=False,
    ),
]
CallerOption = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        envvar="ROWCALL_TENANT",
        metavar="NAME",
        help="The tenant to call for. [default: the tenant that is meant]",
    ),
]


@app.command(epilog=examples("rowcall tenants pause acme", 'rowcall tenants pause acme --note "they move house"'))
def pause(
    name: TenantArgument,
    *,
    note: NoteOption = "",
    actor: PauserOption = None,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: CallerOption = None,
) -> None:
    """Pause a tenant: none of its jobs is started from now on.

    What runs goes on, and calls are still taken. A pause that is there already stays as it is.
    """
    with connect(address, tenant or name) as gateway:
        request = tenant_service_pb2.PauseTenantRequest(name=tenant_name(name), note=note)
        _stub(gateway).PauseTenant(request, timeout=RPC_SECONDS, metadata=gateway.metadata(*by(actor)))
    say_paused("tenant", name)


@app.command(epilog=examples("rowcall tenants resume acme"))
def resume(name: TenantArgument, *, address: AddressOption = DEFAULT_ADDRESS, tenant: CallerOption = None) -> None:
    """End a tenant's pause, if there is one."""
    with connect(address, tenant or name) as gateway:
        request = tenant_service_pb2.ResumeTenantRequest(name=tenant_name(name))
        _stub(gateway).ResumeTenant(request, timeout=RPC_SECONDS, metadata=gateway.metadata())
    say_resumed("tenant", name)


@app.command(epilog=examples("rowcall tenants weight acme 3"))
def weight(
    name: TenantArgument,
    value: Annotated[
        float,
        typer.Argument(
            metavar="WEIGHT", min=0.01, max=100, help="0.01 to 100; of every tenant: 1.", show_default=False
        ),
    ],
    *,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: CallerOption = None,
) -> None:
    """Set a tenant's share of the workers: one of weight 3 is served three times as often as one of weight 1 while both wait.

    Jobs that are submitted from now on count by it.
    """
    with connect(address, tenant or name) as gateway:
        request = tenant_service_pb2.SetTenantWeightRequest(name=tenant_name(name), weight=value)
        _stub(gateway).SetTenantWeight(request, timeout=RPC_SECONDS, metadata=gateway.metadata())
    say(f"The tenant {name} has the weight {value:g}.")


def _stub(gateway: Gateway) -> tenant_service_pb2_grpc.TenantServiceStub:
    return tenant_service_pb2_grpc.TenantServiceStub(gateway.channel)
