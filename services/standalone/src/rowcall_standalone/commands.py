"""`rowcall dev`, `token`, `demo` and `serve` as command lines. The `rowcall` command takes them in when this package is installed.

What a command needs is imported when it is run: `rowcall migrate` must not wait for gateway and worker to be loaded.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from rowcall import ending
from rowcall.starting import UNUSED_BY_SERVICES, importing
from rowcall_standalone.errors import StandaloneError
from rowcall_standalone.signals import Interrupted

_T = TypeVar("_T")

app = typer.Typer()

PostgresBinOption = Annotated[
    Path | None,
    typer.Option(
        envvar="ROWCALL_POSTGRES_BIN",
        metavar="DIR",
        help="Other Postgres binaries than the installed wheel's.",
        show_default=False,
    ),
]


@app.command(
    epilog="\b\nExample:\n"
    "  rowcall dev --listen 127.0.0.1:50051 --data-dir .rowcall/dev --shards 2\n"
    "  rowcall dev --identity jwt\n"
    "  rowcall dev --image my.binpb --servicer my_package.servicer:register --database MY_DSN=mine"
)
def dev(
    *,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="A loopback address; port 0 takes a free one.")] = (
        "127.0.0.1:50051"
    ),
    data_dir: Annotated[Path, typer.Option(metavar="DIR", help="Kept over restarts.")] = Path(".rowcall/dev"),
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=8,
            help="How many shards; more than there are adds some. [default: as many as there are, 1 at first]",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A descriptor image of your job types; repeatable.",
            show_default=False,
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ] = None,
    servicer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:FUNCTION", help="Registers your servicers with the worker; repeatable.", show_default=False
        ),
    ] = None,
    database: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIABLE=NAME",
            help="A database of your own on the embedded server; its connection string, as a login that owns it and sees no "
            "other, is put into the environment variable before your servicers are loaded. Repeatable.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=8, help="How many workers, all in this process.")] = 1,
    allow_faults: Annotated[
        bool, typer.Option("--allow-faults", help="Let ProbeService end this process when asked to.")
    ] = False,
    identity: Annotated[
        Literal["insecure-dev", "jwt"],
        typer.Option(help="How callers are known. jwt: by tokens that `rowcall token` prints."),
    ] = "insecure-dev",
    ops_listen: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT",
            help="Tell of this process over HTTP: /metrics, /healthz, /readyz, /scale/QUEUE. A loopback address.",
            show_default=False,
        ),
    ] = None,
    postgres_bin: PostgresBinOption = None,
    log_format: Annotated[Literal["console", "json"], typer.Option(help="Of the log lines on stderr.")] = "console",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="The least severe lines that are written.")
    ] = "info",
) -> None:
    """Run the whole system in one process.

    Gateway, workers and an embedded Postgres, until Ctrl-C or SIGTERM. Prints "rowcall: ready on HOST:PORT" when it answers. A call's tenant is its metadata rowcall-tenant, "default"
    if there is none; nobody is asked who they are, so only this machine can call. With --identity jwt callers need a token
    of the issuer that it plays. A second signal ends it at once.
    """
    from rowcall_gateway.edge.identity import IdentityMode
    from rowcall_standalone.dev import DevOptions, serve
    from rowcall_standalone.listen import parse, parse_ops

    options = DevOptions(
        listen=_parsed("--listen", parse, listen),
        data_dir=data_dir,
        shards=shards,
        images=tuple(image or ()),
        servicers=tuple(_parsed("--servicer", _servicer, one) for one in servicer or ()),
        databases=tuple(_parsed("--database", _variable, one) for one in database or ()),
        workers=workers,
        allow_faults=allow_faults,
        ops_listen=None if ops_listen is None else _parsed("--ops-listen", parse_ops, ops_listen),
        identity=IdentityMode(identity),
        postgres_bin=postgres_bin,
        log_format=log_format,
        log_level=log_level,
    )
    # A handler's thread must not keep the process: its job was handed back.
    ending.leave(_run(serve(options)))


@app.command(
    epilog="\b\nExample:\n"
    "  rowcall token --tenant acme\n"
    "  export ROWCALL_TOKEN=$(rowcall token --tenant acme --role operator --ttl 8h)\n"
    "  rowcall token --role admin --actor root   # names the tenant at each call"
)
def token(
    *,
    tenant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose data it may touch. An admin's may go without.", show_default=False),
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE",
            help="admin, caller, operator, payload-viewer or viewer; repeatable. [default: caller]",
            show_default=False,
        ),
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option(metavar="SCOPE", help="What it is for; repeatable.", show_default=False)
    ] = None,
    actor: Annotated[str, typer.Option(metavar="NAME", help="Who it is: the claim sub.")] = "developer",
    ttl: Annotated[str, typer.Option(metavar="DURATION", help="How long it is good: 10m, 8h, 30d at most.")] = "1h",
    data_dir: Annotated[Path, typer.Option(metavar="DIR", help="That of `rowcall dev --identity jwt`.")] = Path(
        ".rowcall/dev"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print it with what it says, as JSON.")] = False,
) -> None:
    """Print a token that `rowcall dev --identity jwt` takes.

    Signed with the key in the data directory of that system; no other system takes it.
    """
    from rowcall.security.roles import ADMIN, CALLER
    from rowcall_standalone.issuing.issuer import find_issuer
    from rowcall_standalone.issuing.tokens import issue

    roles = [_parsed("--role", _role, one) for one in role or (CALLER,)]
    if tenant is None and ADMIN not in roles:
        raise typer.BadParameter("is needed; only an admin's token can go without.", param_hint="--tenant")
    said: dict[str, Any] = {
        "tenant": None if tenant is None else _parsed("--tenant", _tenant, tenant),
        "actor": _parsed("--actor", _actor, actor),
        "scopes": [_parsed("--scope", _word, one) for one in scope or ()],
        "ttl": _parsed("--ttl", _ttl, ttl),
    }
    try:
        issued = issue(find_issuer(data_dir), roles=roles, **said)
    except StandaloneError as error:
        sys.stderr.write(f"rowcall: {error}\n")
        raise typer.Exit(1) from error
    sys.stdout.write(f"{json.dumps(asdict(issued), indent=2) if as_json else issued.token}\n")


@app.command(epilog="\b\nExample:\n  rowcall demo\n  rowcall demo --docs ~/notes --max-files 5000")
def demo(
    *,
    docs: Annotated[Path, typer.Option(metavar="PATH", help="The directory whose text files are taken.")] = Path(),
    data_dir: Annotated[Path, typer.Option(metavar="DIR", help="Kept: the next run is warm.")] = Path(".rowcall/demo"),
    max_files: Annotated[int, typer.Option(min=1, max=100_000, help="How many files are taken at most.")] = 1000,
    postgres_bin: PostgresBinOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what happened as JSON on stdout; the rest goes to stderr.")
    ] = False,
) -> None:
    """Do the main job on real input, start to end.

    Text files go in as typed calls, questions over them are answered. Starts gateway and worker as processes on an embedded Postgres, and shows what a caller sees: answers with their
    sources, a call that outlives its deadline and is joined by its key, an operation followed to its end. Exits with 1
    if anything expected did not happen.
    """
    from rowcall_standalone.demo.run import DemoOptions
    from rowcall_standalone.demo.run import demo as run_demo

    options = DemoOptions(docs, data_dir, max_files, as_json, postgres_bin)
    ending.leave(_run(run_demo(options)))


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    short_help="Run gateway and workers in one process, on your Postgres.",
)
def serve(context: typer.Context) -> None:
    """Run gateway and workers in one process, on your Postgres.

    Takes every flag and variable of rowcall-gateway and of rowcall-worker; `rowcall serve --help` names them.
    """
    # What it imports is there for good, as in the services.
    with importing(without=("rich",), later=UNUSED_BY_SERVICES):
        from rowcall_standalone.serve import serve as run_serve

    ending.leave(run_serve(context.args))


def _run(work: Coroutine[Any, Any, bool | None]) -> int:
    """Run to the end; the exit code: 1 for what did not come out right, and for a refusal, which becomes a line on stderr; the
    code that shells give it for a signal."""
    # Postgres and the demo's services are started while gRPC's threads run. Its handlers for processes that fork and go on
    # using it can end such a program before it begins.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    import uvloop

    try:
        return 1 if ending.run(work, uvloop.new_event_loop) is False else 0
    except StandaloneError as error:
        sys.stderr.write(f"rowcall: {error}\n")
        return 1
    except Interrupted as interrupted:
        return 128 + interrupted.number


def _parsed(option: str, parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint=option) from error


def _servicer(text: str) -> str:
    from rowcall_worker.settings import is_servicer

    if not is_servicer(text):
        raise ValueError(f"{text!r} is not MODULE:FUNCTION, such as my_package.servicer:register")
    return text


def _variable(text: str) -> tuple[str, str]:
    from rowcall_standalone.databases import is_reserved

    variable, _, name = text.partition("=")
    if not variable.isidentifier() or not name:
        raise ValueError(f"{text!r} is not VARIABLE=NAME, such as DOCUMENTS_DSN=documents")
    if is_reserved(name):
        raise ValueError(f"the database {name!r} is the system's own; choose another name")
    return variable, name


def _role(text: str) -> str:
    from rowcall.security.roles import ROLES

    if text not in ROLES:
        raise ValueError(f"{text!r} is no role; there are {', '.join(sorted(ROLES))}")
    return text


def _tenant(text: str) -> str:
    from rowcall.names import is_tenant

    if not is_tenant(text):
        raise ValueError(f"{text!r} is not the name of a tenant: lower-case letters, digits and inner '-', 63 at most")
    return text


def _actor(text: str) -> str:
    if not 1 <= len(text) <= 255 or not text.isprintable():
        raise ValueError("is not 1 to 255 printable characters")
    return text


def _word(text: str) -> str:
    if not text or text.split() != [text]:
        raise ValueError(f"{text!r} is no word; give --scope once for each")
    return text


def _ttl(text: str) -> timedelta:
    from rowcall.settings.values import parse_duration

    ttl = parse_duration(text)
    if not isinstance(ttl, timedelta) or not timedelta(0) < ttl <= timedelta(days=30):
        raise ValueError(f"{text!r} is not from 1s to 30d")
    return ttl
