"""`rowcall methods`: methods listed, paused and resumed, through the gateway's CatalogueService."""

from __future__ import annotations

from typing import Annotated

import typer

from rowcall.options.v1 import access_pb2
from rowcall.security.access import AccessRule
from rowcall.v1 import catalogue_service_pb2, catalogue_service_pb2_grpc
from rowcall_cli.answers import as_dict, complete
from rowcall_cli.gateway import (
    DEFAULT_ADDRESS,
    DEFAULT_TENANT,
    RPC_SECONDS,
    AddressOption,
    Gateway,
    TenantOption,
    connect,
)
from rowcall_cli.output import WideOption, examples, result_json, result_table
from rowcall_cli.pausing import NoteOption, PauserOption, by, say_paused, say_resumed

app = typer.Typer(no_args_is_help=True, help="List methods, pause them and resume them.")

COLUMNS = ("method", "queue", "workers", "callers", "by", "image", "digest")

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
MethodArgument = Annotated[
    str, typer.Argument(metavar="METHOD", help="The method: package.Service/Method.", show_default=False)
]


@app.command("list", epilog=examples("rowcall methods list", "rowcall methods list --json"))
def list_methods(
    *,
    as_json: JsonOption = False,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: TenantOption = DEFAULT_TENANT,
) -> None:
    """List the methods that the gateway serves: their queue, how many workers serve them, who may call them, and the image
    that they are of. With --json, the workers by name.

    Exits with 3 when a shard did not answer: workers that serve there alone are not told then.
    """
    with connect(address, tenant) as gateway:
        request = catalogue_service_pb2.ListMethodsRequest()
        answer = _stub(gateway).ListMethods(request, timeout=RPC_SECONDS, metadata=gateway.metadata())
    if as_json:
        result_json(
            {
                "methods": [as_dict(each) for each in answer.methods],
                "unreachable_shards": list(answer.unreachable_shards),
            }
        )
    else:
        result_table(COLUMNS, map(_row, answer.methods), wide=wide)
    complete(answer.unreachable_shards)


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


def _row(method: catalogue_service_pb2.Method) -> tuple[str, ...]:
    return (
        method.name,
        method.policy.queue,
        str(len(method.workers)) if method.workers else "none",
        _who(method.access),
        method.access_source,
        method.image,
        method.image_digest[:12],
    )


def _who(rule: access_pb2.AccessRule) -> str:
    return str(AccessRule(frozenset(rule.roles), frozenset(rule.scopes), rule.public))


def _stub(gateway: Gateway) -> catalogue_service_pb2_grpc.CatalogueServiceStub:
    return catalogue_service_pb2_grpc.CatalogueServiceStub(gateway.channel)
