"""`rowcall tenants export`, `erase` and `reopen`: everything that is kept of a tenant, taken along or erased. Added to `tenants`.

Both can be broken off at any time and gone on with by the same command.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Self

import grpc
import typer
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import MessageToDict

from rowcall.names import tenant_name
from rowcall.v1 import tenant_service_pb2
from rowcall.v1.job_pb2 import Job
from rowcall.v1.tenant_service_pb2 import EraseTenantResponse, Erasure, ExportedRecord
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.gateway import DEFAULT_ADDRESS, RPC_SECONDS, AddressOption, Gateway, connect
from rowcall_cli.job_output import message_json, time_text
from rowcall_cli.output import examples, result_fields, result_json, result_table, say
from rowcall_cli.pausing import by
from rowcall_cli.tenants import CallerOption, JsonOption, TenantArgument, app, stub

tenants = app
"""The command `rowcall tenants`, whole."""

COUNTED: Final = 10_000
"""How far a gateway counts what there is to erase."""

_TELL_EVERY: Final = 5.0
"""Seconds between lines that say how far it is."""

ActorOption = Annotated[
    str | None,
    typer.Option(
        "--actor",
        metavar="NAME",
        help="Who does it, where callers are believed; a credential says it itself.",
        show_default=False,
    ),
]


@app.command(
    epilog=examples("rowcall tenants export acme", "rowcall tenants export acme --to /backup/acme.jsonl --json")
)
def export(
    name: TenantArgument,
    *,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="Where to. [default: TENANT.jsonl]", show_default=False),
    ] = None,
    without_payloads: Annotated[
        bool, typer.Option("--without-payloads", help="Without requests, responses and the details of errors.")
    ] = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: CallerOption = None,
) -> None:
    """Write everything that is kept of a tenant to a file: keys, jobs, what they cost, its audit; a JSON object a line.

    Payloads are in it as they are, in base64, secret fields too: only you may read the file. The command that was broken off goes on when it is run
    again. Each page is in the tenant's audit.
    """
    file = Path(f"{name}.jsonl") if to is None else to
    if file.exists():
        raise CommandError(f"{file} is there already: name another file with --to, or move it away.", ExitCode.USAGE)
    part = _Part.open(file, tenant_name(name), payloads=not without_payloads)
    if part.size:
        say(f"Going on with {part.path}: {sum(part.counts.values())} records are there.")
    told = time.monotonic()
    with connect(address, tenant or name) as gateway:
        while not part.whole:
            request = tenant_service_pb2.ExportTenantRequest(
                name=tenant_name(name), page_token=part.token, without_payloads=without_payloads
            )
            answer = stub(gateway).ExportTenant(request, timeout=RPC_SECONDS, metadata=gateway.metadata(*by(actor)))
            part.write(answer.records, answer.next_page_token)
            if time.monotonic() >= told + _TELL_EVERY:
                told = time.monotonic()
                say(f"{sum(part.counts.values())} records, {part.size} bytes …")
    digest = part.finish()
    if as_json:
        result_json(
            {
                "tenant": tenant_name(name),
                "file": str(file),
                "records": part.counts,
                "bytes": part.size,
                "sha256": digest,
            }
        )
    else:
        result_fields(
            [
                ("file", str(file)),
                *((kind, str(count)) for kind, count in part.counts.items()),
                ("bytes", str(part.size)),
                ("sha256", digest),
            ]
        )


@app.command(
    epilog=examples(
        "rowcall tenants erase acme --dry-run",
        'rowcall tenants erase acme --note "contract ended" --yes --json > receipt.json',
    )
)
def erase(
    name: TenantArgument,
    *,
    note: Annotated[
        str, typer.Option("--note", metavar="TEXT", help="What for; kept in the receipt.", show_default=False)
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is to erase.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: CallerOption = None,
) -> None:
    """Erase everything that is kept of a tenant, and print a receipt. It cannot be undone: export it first.

    From the beginning on its calls are refused; waiting jobs are cancelled, running ones asked to end. It takes some ten seconds at
    least. The command that was broken off goes on when it is run again; run when all is done, it prints the receipt again.
    """
    with connect(address, tenant or name) as gateway:
        metadata = gateway.metadata(*by(actor))
        if dry_run or not yes:
            request = tenant_service_pb2.EraseTenantRequest(name=tenant_name(name), validate_only=True)
            there: EraseTenantResponse = stub(gateway).EraseTenant(request, timeout=RPC_SECONDS, metadata=metadata)
            if dry_run:
                _print_preview(there.erasure, as_json=as_json)
                return
            _ask(name, there.erasure)
        request = tenant_service_pb2.EraseTenantRequest(name=tenant_name(name), note=note)
        erasure = _erase_all(gateway, request, metadata)
    if as_json:
        result_json(message_json(erasure))
    else:
        _print_receipt(erasure)


@app.command(epilog=examples("rowcall tenants reopen acme"))
def reopen(
    name: TenantArgument,
    *,
    actor: ActorOption = None,
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: CallerOption = None,
) -> None:
    """Take calls of a tenant again that was erased. It is empty."""
    with connect(address, tenant or name) as gateway:
        request = tenant_service_pb2.ReopenTenantRequest(name=tenant_name(name))
        stub(gateway).ReopenTenant(request, timeout=RPC_SECONDS, metadata=gateway.metadata(*by(actor)))
    say(f"The tenant {name} is open: its calls are taken.")


@dataclass(slots=True)
class _Part:
    """An export on its way: FILE.part with what came, FILE.part.at with how far that is."""

    file: Path
    tenant: str
    payloads: bool
    token: str = ""
    """Of the next page."""
    size: int = 0
    """Bytes that were written in whole pages."""
    counts: Counter[str] = field(default_factory=Counter)
    """Records by what they are."""
    whole: bool = False
    """Whether the last page is there."""

    @property
    def path(self) -> Path:
        """Where the records are."""
        return Path(f"{self.file}.part")

    @property
    def _at(self) -> Path:
        return Path(f"{self.file}.part.at")

    @classmethod
    def open(cls, file: Path, tenant: str, *, payloads: bool) -> Self:
        """Begins one, or goes on with one that was broken off. Raises CommandError (USAGE)."""
        made = cls(file, tenant, payloads)
        try:
            if made._at.exists():
                made._resume(json.loads(made._at.read_text()))
            else:
                os.close(os.open(made.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
                made.path.chmod(0o600)
        except OSError as error:
            raise CommandError(
                f"{error.filename or made.path}: cannot be written ({error.strerror}).", ExitCode.USAGE
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise CommandError(
                f"{made._at} is not what this command wrote: remove it to begin anew.", ExitCode.USAGE
            ) from error
        return made

    def _resume(self, kept: Mapping[str, Any]) -> None:
        if (kept["tenant"], kept["payloads"]) != (self.tenant, self.payloads):
            raise CommandError(
                f"{self.path} is of another export ({kept['tenant']}, {'with' if kept['payloads'] else 'without'} payloads): name "
                "another file with --to, or remove it and its .at.",
                ExitCode.USAGE,
            )
        if self.path.stat().st_size < kept["size"]:
            raise CommandError(f"{self.path} was changed: remove it and its .at to begin anew.", ExitCode.USAGE)
        self.token, self.size = str(kept["token"]), int(kept["size"])
        self.whole = not self.token
        self.counts.update(kept["counts"])
        # Of a page that was being written.
        os.truncate(self.path, self.size)

    def write(self, records: Iterable[ExportedRecord], token: str) -> None:
        """Adds a page, and where the next one is. Raises CommandError."""
        page = list(records)
        data = "".join(json.dumps(_record(each), ensure_ascii=False) + "\n" for each in page).encode()
        try:
            with self.path.open("ab") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            self.size += len(data)
            self.counts.update(str(each.WhichOneof("record")) for each in page)
            self.token, self.whole = token, not token
            beside = Path(f"{self._at}.new")
            beside.write_text(
                json.dumps(
                    {
                        "tenant": self.tenant,
                        "payloads": self.payloads,
                        "token": token,
                        "size": self.size,
                        "counts": self.counts,
                    }
                )
            )
            beside.replace(self._at)
        except OSError as error:
            raise CommandError(
                f"{self.path}: cannot be written ({error.strerror}). Run the command again to go on."
            ) from error

    def finish(self) -> str:
        """Gives the file its name; its SHA-256, in hexadecimal digits."""
        with self.path.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        self.path.replace(self.file)
        self._at.unlink(missing_ok=True)
        return digest


def _record(record: ExportedRecord) -> Mapping[str, object]:
    kind = str(record.WhichOneof("record"))
    if kind == "job":
        return {kind: _job(record.job)}
    return {kind: MessageToDict(getattr(record, kind), preserving_proto_field_name=True)}


def _job(job: Job) -> Mapping[str, object]:
    """A job whole: its payloads as the bytes that they are, for no type need be known to whoever keeps them."""
    rest = Job()
    rest.CopyFrom(job)
    rest.ClearField("request")
    rest.ClearField("response")
    errors = [rest.error, *(each.error for each in rest.attempts)]
    details = [[_packed(each) for each in error.details] for error in errors]
    for error in errors:
        if error.details:
            del error.details[:]
    made: dict[str, Any] = MessageToDict(rest, preserving_proto_field_name=True)
    if details[0]:
        made["error"]["details"] = details[0]
    for attempt, packed in zip(made.get("attempts", ()), details[1:], strict=True):
        if packed:
            attempt["error"]["details"] = packed
    for name in ("request", "response"):
        if job.HasField(name):
            made[name] = _packed(getattr(job, name))
    return made


def _packed(packed: AnyMessage) -> Mapping[str, str]:
    return {"type": packed.TypeName(), "bytes": base64.b64encode(packed.value).decode()}


def _erase_all(
    gateway: Gateway, request: tenant_service_pb2.EraseTenantRequest, metadata: tuple[tuple[str, str | bytes], ...]
) -> Erasure:
    """Goes on until nothing is left, and says how far it is."""
    said, told = "", 0.0
    while True:
        try:
            answer: EraseTenantResponse = stub(gateway).EraseTenant(request, timeout=RPC_SECONDS, metadata=metadata)
        except (grpc.RpcError, KeyboardInterrupt):
            say("The erasure may have begun and is not done: run the command again to go on. What is erased stays so.")
            raise
        if answer.done:
            return answer.erasure
        if answer.erasure.remaining != said or time.monotonic() >= told + _TELL_EVERY:
            said, told = answer.erasure.remaining, time.monotonic()
            rows = sum(each.rows for each in answer.erasure.erased)
            say(f"{rows} rows are erased. {said}")
        time.sleep(answer.retry_delay.ToTimedelta().total_seconds())


def _ask(name: str, there: Erasure) -> None:
    """Has the person at the terminal say the tenant's name. Raises CommandError (USAGE)."""
    say(f"Of the tenant {name} there is on shard {there.shard}: {_counts(there) or 'nothing'}.")
    if not sys.stdin.isatty():
        raise CommandError("Erasing cannot be undone: say --yes where nobody can be asked.", ExitCode.USAGE)
    typed = typer.prompt("It cannot be undone. The tenant's name, to erase it", err=True)
    if typed.strip() != name:
        raise CommandError("That is not its name: nothing was erased.", ExitCode.USAGE)


def _counts(erasure: Erasure) -> str:
    return ", ".join(f"{each.rows}{' or more' if each.rows >= COUNTED else ''} {each.kind}" for each in erasure.erased)


def _print_preview(erasure: Erasure, *, as_json: bool) -> None:
    if as_json:
        result_json(message_json(erasure))
        return
    rows = [(each.kind, f"{each.rows} or more" if each.rows >= COUNTED else str(each.rows)) for each in erasure.erased]
    if rows:
        result_table(("what", "rows"), rows)
    else:
        say("There is nothing to erase.")


def _print_receipt(erasure: Erasure) -> None:
    result_fields(
        [
            ("tenant", erasure.name),
            ("shard", erasure.shard),
            ("erasure", str(erasure.number)),
            ("begun", time_text(erasure.begin_time)),
            ("finished", time_text(erasure.finish_time)),
            ("by", erasure.actor),
            ("note", erasure.note),
            *((each.kind, f"{each.rows} erased") for each in erasure.erased),
            *(("kept", each) for each in erasure.kept),
        ]
    )
