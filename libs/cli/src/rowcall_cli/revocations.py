"""`rowcall revoke` and `rowcall revocations`: tokens refused before they end, through the gateway's AccessService."""

from __future__ import annotations

from typing import Annotated

import typer

from rowcall.v1 import access_service_pb2, access_service_pb2_grpc
from rowcall_cli.answers import as_dict, second_text
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.flags import past_flag
from rowcall_cli.gateway import DEFAULT_ADDRESS, RPC_SECONDS, AddressOption, Gateway, connect
from rowcall_cli.output import WideOption, examples, result_json, result_table, say
from rowcall_cli.pausing import by

REVOKE_EXAMPLES = examples(
    "rowcall revoke --issuer https://login.example.com/realms/acme --subject 7c9e6679",
    'rowcall revoke --issuer https://login.example.com --everybody --before 1h --note "its key was stolen"',
)
LIST_EXAMPLES = examples("rowcall revocations", "rowcall revocations --issuer https://login.example.com --json")
COLUMNS = ("issuer", "subject", "issued before", "said", "by", "note")

_PAGE = 1000

ActorOption = Annotated[
    str | None,
    typer.Option(
        "--actor",
        metavar="NAME",
        help="Who revokes it, where callers are believed; a credential says it itself.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def revoke(
    *,
    issuer: Annotated[
        str,
        typer.Option("--issuer", metavar="ISS", help="The tokens' claim iss, letter for letter.", show_default=False),
    ],
    subject: Annotated[
        str,
        typer.Option("--subject", metavar="SUB", help="The tokens' claim sub, letter for letter.", show_default=False),
    ] = "",
    everybody: Annotated[
        bool, typer.Option("--everybody", help="Every token of the issuer, instead of --subject.")
    ] = False,
    before: Annotated[
        str,
        typer.Option(
            "--before",
            metavar="TIME",
            help="Those that were issued before it: a time, or how long ago (30m, 2h). [default: now]",
            show_default=False,
        ),
    ] = "",
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="What for; shown to whoever looks.")] = "",
    actor: ActorOption = None,
    address: AddressOption = DEFAULT_ADDRESS,
    as_json: JsonOption = False,
) -> None:
    """Refuse the tokens of a subject that were issued before now.

    Every gateway does so within two seconds, also for calls that wait by then; what was submitted goes on. Tokens that are issued from now on are good: stop the issuer from issuing them. For admins.
    """
    if bool(subject) == everybody:
        raise CommandError("Say whose tokens: --subject SUB, or --everybody for all of the issuer's.", ExitCode.USAGE)
    request = access_service_pb2.RevokeCredentialsRequest(
        issuer=issuer, subject=subject, before_time=past_flag("--before", before), note=note
    )
    # It is of no tenant.
    with connect(address, "") as gateway:
        answer = _stub(gateway).RevokeCredentials(request, timeout=RPC_SECONDS, metadata=by(actor))
    revoked = answer.revocation
    if as_json:
        result_json(as_dict(revoked))
    else:
        said = second_text(revoked.before_time)
        say(
            f"Tokens of {revoked.subject or 'everybody'} from {revoked.issuer} that were issued before {said} are refused."
        )


def revocations(
    *,
    issuer: Annotated[
        str, typer.Option("--issuer", metavar="ISS", help="Of this issuer only.", show_default=False)
    ] = "",
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    as_json: JsonOption = False,
) -> None:
    """Show which tokens are refused before they end, the latest first. For admins."""
    found: list[access_service_pb2.Revocation] = []
    token = ""
    with connect(address, "") as gateway:
        while True:
            request = access_service_pb2.ListRevocationsRequest(issuer=issuer, page_size=_PAGE, page_token=token)
            answer = _stub(gateway).ListRevocations(request, timeout=RPC_SECONDS)
            found += answer.revocations
            token = answer.next_page_token
            if not token:
                break
    if as_json:
        result_json({"revocations": [as_dict(each) for each in found]})
        return
    if not found:
        say("Nothing is revoked.")
        return
    rows = [
        (
            each.issuer,
            each.subject or "everybody",
            second_text(each.before_time),
            second_text(each.create_time),
            each.actor,
            each.note,
        )
        for each in found
    ]
    result_table(COLUMNS, rows, prose=("note",), wide=wide)


def _stub(gateway: Gateway) -> access_service_pb2_grpc.AccessServiceStub:
    return access_service_pb2_grpc.AccessServiceStub(gateway.channel)
