"""What is said of TLS and of the credential, and what a call is for: flags that every command has which has an --address.

They are added to the commands where the command line is put together, and known to `gateway` while a command runs: no command
passes them on, and a new one has them too.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import typer

TOKEN_VARIABLE: Final = "ROWCALL_TOKEN"  # noqa: S105 - a name
"""The environment variable that holds a token itself."""

TlsOption = Annotated[
    bool,
    typer.Option(
        "--tls",
        envvar="ROWCALL_CLI_TLS",
        help="Call over TLS, and trust whom gRPC trusts by itself. Any of the next four says --tls too.",
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        envvar="ROWCALL_CLI_TLS_CA",
        metavar="FILE",
        help="Who may have signed the gateway's certificate (PEM).",
        show_default=False,
    ),
]
CertOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        envvar="ROWCALL_CLI_TLS_CERT",
        metavar="FILE",
        help="The caller's certificate (PEM), for a gateway that asks for one.",
        show_default=False,
    ),
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--tls-key", envvar="ROWCALL_CLI_TLS_KEY", metavar="FILE", help="Its key (PEM).", show_default=False),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--tls-name",
        envvar="ROWCALL_CLI_TLS_NAME",
        metavar="NAME",
        help="The name that the gateway's certificate must have, where --address is another, as through a tunnel.",
        show_default=False,
    ),
]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        envvar="ROWCALL_TOKEN_FILE",
        metavar="FILE",
        help="The token to call with, read again for each call. ROWCALL_TOKEN has the token itself; no flag does, for "
        "everybody on the machine can read those.",
        show_default=False,
    ),
]
PlaintextOption = Annotated[
    bool,
    typer.Option(
        "--token-over-plaintext",
        envvar="ROWCALL_TOKEN_OVER_PLAINTEXT",
        help="Send the token without TLS to another machine too.",
    ),
]
ReasonOption = Annotated[
    str | None,
    typer.Option(
        "--reason",
        envvar="ROWCALL_REASON",
        metavar="TEXT",
        help="What it is for: kept in the audit with whatever the command does, where no --note is. See rowcall audit list.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Reach:
    """How a gateway is reached, as it was said."""

    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    name: str | None = None
    token_file: Path | None = None
    token_over_plaintext: bool = False
    reason: str | None = None
    """What the calls are for."""

    @property
    def secure(self) -> bool:
        """Whether TLS was asked for, in whichever words."""
        return self.tls or any((self.ca, self.cert, self.key, self.name))

    @property
    def has_token(self) -> bool:
        """Whether there is to be a token."""
        return self.token_file is not None or bool(os.environ.get(TOKEN_VARIABLE))

    @property
    def has_credential(self) -> bool:
        """Whether something says who calls, so that the command need not: a token or a certificate."""
        return self.has_token or self.cert is not None


_FLAGS: Final[dict[str, tuple[object, object]]] = {
    "tls": (TlsOption, False),
    "ca": (CaOption, None),
    "cert": (CertOption, None),
    "key": (KeyOption, None),
    "name": (NameOption, None),
    "token_file": (TokenOption, None),
    "token_over_plaintext": (PlaintextOption, False),
    "reason": (ReasonOption, None),
}
_PREFIX: Final = "reach_"
"""Of the parameters: a command may have one of its own called `key`."""
_CONTEXT: Final = "reach_context"

_reach: ContextVar[Reach] = ContextVar("rowcall_cli.reach", default=Reach())  # noqa: B039 - frozen


def current() -> Reach:
    """How the command that runs is to reach its gateway."""
    return _reach.get()


@contextmanager
def reached_by(reach: Reach) -> Iterator[None]:
    """Has a block reach gateways in this way."""
    before = _reach.set(reach)
    try:
        yield
    finally:
        _reach.reset(before)


def add_flags(app: typer.Typer) -> None:
    """Gives them to every command of an app, and of those within it, that has an --address."""
    for command in app.registered_commands:
        if command.callback is not None and "address" in inspect.signature(command.callback).parameters:
            command.callback = _reaching(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_flags(group.typer_instance)


def _reaching(command: Callable[..., object]) -> Callable[..., object]:
    """The same command, with the flags in its signature, from which typer makes its parser."""
    if hasattr(command, "__reaching__"):
        return command
    hints = get_type_hints(command, include_extras=True)
    own = [each.replace(annotation=hints[each.name]) for each in inspect.signature(command).parameters.values()]
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(
            f"{_PREFIX}{each.name}", keyword, annotation=_FLAGS[each.name][0], default=_FLAGS[each.name][1]
        )
        for each in fields(Reach)
    ]
    context_parameter = inspect.Parameter(_CONTEXT, keyword, annotation=typer.Context)

    @functools.wraps(command)
    def run(**given: Any) -> object:
        context: typer.Context = given.pop(_CONTEXT)
        reach = Reach(**{each.name: given.pop(f"{_PREFIX}{each.name}") for each in fields(Reach)})
        source = context.get_parameter_source("tenant")
        if given.get("tenant") and source is not None and source.name == "DEFAULT" and reach.has_credential:
            # The credential says it. What is merely assumed would contradict it, and be refused.
            given["tenant"] = ""
        with reached_by(reach):
            return command(**given)

    signature = inspect.Signature([*own, *added, context_parameter])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
    run.__reaching__ = True  # type: ignore[attr-defined]
    return run
