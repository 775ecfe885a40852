"""`rowcall audit`: who did what, where its chains end, and whether they are what they were, through the gateway's AuditService."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rowcall.names import tenant_name
from rowcall.v1.audit_service_pb2 import (
    AuditEntry,
    AuditFaultKind,
    AuditPlace,
    ListAuditEntriesRequest,
    ListAuditHeadsRequest,
    VerifyAuditChainRequest,
)
from rowcall.v1.audit_service_pb2_grpc import AuditServiceStub
from rowcall_cli.answers import as_dict, complete, second_text
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.gateway import (
    DEFAULT_ADDRESS,
    RPC_SECONDS,
    AddressOption,
    Gateway,
    connect,
    default_tenant,
)
from rowcall_cli.output import WideOption, examples, result_json, result_table, say

app = typer.Typer(no_args_is_help=True, help="Look at who did what, and verify it.")

COLUMNS = ("time", "who", "what", "to what", "before", "after", "reason", "trace", "place")
HEAD_COLUMNS = ("chain", "database", "place", "hash", "since", "waiting")
_HEAD = re.compile(r"([1-9][0-9]*):([0-9a-f]{64})")
_PAGE = 1000

CallerOption = Annotated[
    str | None,
    typer.Option(
        "--tenant", envvar="ROWCALL_TENANT", metavar="NAME", help="Whose it is. [default: default, or the credential's]"
    ),
]
SystemOption = Annotated[
    bool,
    typer.Option(
        "--system", help="What belongs to no tenant: queues, methods, credentials, bounds, images. For admins."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command(
    "list", epilog=examples("rowcall audit list --tenant acme", "rowcall audit list --system --action queue.pause")
)
def list_(
    *,
    by: Annotated[str, typer.Option("--by", metavar="ACTOR", help="By this actor only.", show_default=False)] = "",
    action: Annotated[
        str,
        typer.Option(
            "--action", metavar="ACTION", help="This only, job.cancel, or a kind of it, job.", show_default=False
        ),
    ] = "",
    target: Annotated[
        str,
        typer.Option("--target", metavar="NAME", help="To this only: the name of an operation.", show_default=False),
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="As many at most.")] = 100,
    system: SystemOption = False,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: CallerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who did what, the latest first.

    Every cancel, retry, resolve, delete, pause, resume, weight, revocation, bound, image, and every look at payloads by somebody else than who submitted
    them. Exits with 3 when a database did not answer: what it has is missing then.
    """
    found: list[AuditEntry] = []
    with connect(address, _caller(tenant, system=system)) as gateway:
        token, missing = "", set[str]()
        while len(found) < limit:
            answer = AuditServiceStub(gateway.channel).ListAuditEntries(
                ListAuditEntriesRequest(
                    chain=_chain(gateway, system=system),
                    actor=by,
                    action=action,
                    target=target,
                    page_size=min(limit - len(found), _PAGE),
                    page_token=token,
                ),
                timeout=RPC_SECONDS,
                metadata=_metadata(gateway),
            )
            found += answer.entries
            missing |= set(answer.unreachable_databases)
            token = answer.next_page_token
            if not token:
                break
    if as_json:
        result_json({"entries": [as_dict(each) for each in found], "unreachable_databases": sorted(missing)})
    elif found:
        result_table(COLUMNS, map(_row, found), prose=("before", "after", "reason"), wide=wide)
    else:
        say("Nothing was done.")
    complete(missing)


@app.command(epilog=examples("rowcall audit head --tenant acme", "rowcall audit head --system --json > heads.json"))
def head(
    *,
    system: SystemOption = False,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: CallerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where a chain ends.

    Keep it where nobody can write who can write the database: `rowcall audit verify --earlier` finds then whatever was changed or cut
    off before it. Workers write heads to their log each minute, too.
    """
    with connect(address, _caller(tenant, system=system)) as gateway:
        answer = AuditServiceStub(gateway.channel).ListAuditHeads(
            ListAuditHeadsRequest(chain=_chain(gateway, system=system)),
            timeout=RPC_SECONDS,
            metadata=_metadata(gateway),
        )
    if as_json:
        result_json(
            {
                "heads": [as_dict(each) for each in answer.heads],
                "unreachable_databases": list(answer.unreachable_databases),
            }
        )
    else:
        rows = [
            (
                each.chain,
                each.database,
                str(each.place),
                each.hash,
                second_text(each.seal_time) if each.HasField("seal_time") else "",
                str(each.unsealed) if each.unsealed else "",
            )
            for each in answer.heads
        ]
        result_table(HEAD_COLUMNS, rows, wide=wide)
    complete(answer.unreachable_databases)


@app.command(
    epilog=examples(
        "rowcall audit verify --tenant acme --earlier heads.json",
        "rowcall audit verify --system --database catalogue",
    )
)
def verify(
    *,
    earlier: Annotated[
        list[str],
        typer.Option(
            "--earlier",
            metavar="FILE|PLACE:HASH",
            help="A head that was seen earlier: a file that audit head --json wrote, or a place and its hash from a log. May be given "
            "again.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer's way; it is not changed
    system: SystemOption = False,
    database: Annotated[
        str,
        typer.Option(
            "--database", metavar="NAME", help="Of --system: a shard, or catalogue. [default: all]", show_default=False
        ),
    ] = "",
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: CallerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a chain: that no entry is changed, missing or inserted, and, with an earlier head, that none is cut off at its end.

    Exits with 1 where something is wrong.
    """
    broken = False
    with connect(address, _caller(tenant, system=system)) as gateway:
        stub, chain = AuditServiceStub(gateway.channel), _chain(gateway, system=system)
        heads = stub.ListAuditHeads(
            ListAuditHeadsRequest(chain=chain), timeout=RPC_SECONDS, metadata=_metadata(gateway)
        )
        complete(heads.unreachable_databases)
        told = [
            _verified(stub, gateway, VerifyAuditChainRequest(chain=chain, database=each.database, earlier_heads=places))
            | {"chain": each.chain}
            for each in heads.heads
            if database in ("", each.database)
            for places in [_earlier(earlier, each.chain, each.database)]
        ]
    if database and not told:
        raise CommandError(f"There is no chain in a database {database!r}.", ExitCode.FAILED)
    for one in told:
        faults: Any = one["faults"]
        broken = broken or bool(faults)
        if not as_json:
            for fault in faults:
                say(f"{one['chain']} in {one['database']}: {fault['kind']}: {fault['description']}", style="red")
            say(_summary(one))
    if as_json:
        result_json({"chains": told})
    if broken:
        raise CommandError("What was done is not what is kept of it.", ExitCode.FAILED)


def _verified(stub: AuditServiceStub, gateway: Gateway, request: VerifyAuditChainRequest) -> dict[str, object]:
    """What one chain in one database comes to. The request is moved on."""
    faults: list[dict[str, object]] = []
    checked = erased = 0
    while True:
        answer = stub.VerifyAuditChain(request, timeout=RPC_SECONDS, metadata=_metadata(gateway))
        faults += [
            {
                "kind": AuditFaultKind.Name(each.kind).removeprefix("AUDIT_FAULT_KIND_").lower(),
                "place": each.place,
                "description": each.description,
            }
            for each in answer.faults
        ]
        checked += answer.checked
        erased += answer.erased
        if not answer.more:
            break
        request.start.CopyFrom(answer.end)
    return {
        "database": request.database,
        "checked": checked,
        "erased": erased,
        "place": answer.end.place,
        "hash": answer.end.hash,
        "checkpoint": answer.checkpoint,
        "checkpoint_verified": answer.checkpoint_verified,
        "earlier_heads": len(request.earlier_heads),
        "gone_heads": list(answer.gone_places),
        "faults": faults,
    }


def _summary(one: dict[str, object]) -> str:
    text = f"{one['chain']} in {one['database']}: {one['checked']} entries verified, up to place {one['place']}"
    if one["earlier_heads"]:
        text += f", against {one['earlier_heads']} earlier heads"
    if one["checkpoint"]:
        signed = "signed" if one["checkpoint_verified"] else "its signature not looked at: the gateway has no key"
        text += f"; cut off up to place {one['checkpoint']} ({signed})"
    if one["erased"]:
        text += f"; {one['erased']} of them erased, as its entries say"
    if one["gone_heads"]:
        text += f"; {len(one['gone_heads'])} earlier heads are in what was cut off"  # type: ignore[arg-type]
    return text + "."


def _earlier(given: Sequence[str], chain: str, database: str) -> list[AuditPlace]:
    """The earlier heads of one chain. Raises CommandError (USAGE)."""
    found = []
    for text in given:
        match = _HEAD.fullmatch(text)
        if match is not None:
            found.append(AuditPlace(place=int(match[1]), hash=match[2]))
            continue
        try:
            data = json.loads(sys.stdin.read() if text == "-" else Path(text).read_text(encoding="utf-8"))
            heads = [
                AuditPlace(place=int(each.get("place", 0)), hash=str(each["hash"]))
                for each in data["heads"]
                if (each["chain"], each["database"]) == (chain, database)
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not what `rowcall audit head --json` writes"
            raise CommandError(
                f"--earlier {text} is no PLACE:HASH, and as a file it cannot be read: {why}.", ExitCode.USAGE
            ) from None
        # An empty chain's says nothing.
        found += [each for each in heads if each.place]
    return found


def _caller(tenant: str | None, *, system: bool) -> str:
    if system:
        return tenant or ""
    return default_tenant() if tenant is None else tenant


def _chain(gateway: Gateway, *, system: bool) -> str:
    if system:
        return "system"
    return tenant_name(gateway.tenant) if gateway.tenant else ""


def _metadata(gateway: Gateway) -> tuple[tuple[str, str | bytes], ...]:
    return gateway.metadata() if gateway.tenant else ()


def _row(entry: AuditEntry) -> tuple[str, ...]:
    who = entry.actor or "(not said)"
    if entry.roles:
        who += f" ({', '.join(entry.roles)})"
    return (
        second_text(entry.create_time),
        who,
        entry.action,
        entry.target,
        entry.before,
        entry.after,
        entry.reason,
        entry.trace_id,
        str(entry.place) if entry.place else "",
    )
