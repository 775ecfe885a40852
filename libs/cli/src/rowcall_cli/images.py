"""`rowcall image`: images compared, published and rolled back, through the gateway's CatalogueService."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from rowcall.v1 import catalogue_service_pb2, catalogue_service_pb2_grpc
from rowcall.v1.catalogue_service_pb2 import Image, ImageChange, ImageChangeKind
from rowcall_cli.answers import as_dict
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.gateway import DEFAULT_ADDRESS, RPC_SECONDS, AddressOption, Gateway, connect
from rowcall_cli.job_output import time_text
from rowcall_cli.output import WideOption, examples, result_json, result_table, say
from rowcall_cli.pausing import by

app = typer.Typer(
    no_args_is_help=True, help="Publish images of job types, compare them first, list them, and roll them back."
)

COLUMNS = ("image", "revision", "digest", "published", "by", "served by", "note")
CHANGES = ("of", "what", "rule", "change")

_PAGE = 1000
_WAIT = 20
"""Seconds that a publication may take beside a call's own."""
_WORDS = {
    ImageChangeKind.IMAGE_CHANGE_KIND_ADDED: "added",
    ImageChangeKind.IMAGE_CHANGE_KIND_WIRE: "WIRE",
    ImageChangeKind.IMAGE_CHANGE_KIND_POLICY: "policy",
}

FileArgument = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="The image, as `buf build -o` writes it.", show_default=False),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="What it is published under. [default: the file's name without its ending]",
        show_default=False,
    ),
]
NoteOption = Annotated[
    str, typer.Option("--note", metavar="TEXT", help="What for; shown to whoever looks.", show_default=False)
]
AllowOption = Annotated[
    bool, typer.Option("--allow-breaking", help="Though it breaks those who were built before.", show_default=False)
]
ActorOption = Annotated[
    str | None,
    typer.Option(
        "--actor",
        metavar="NAME",
        help="Who publishes it, where callers are believed; a credential says it itself.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command(
    epilog=examples("rowcall image diff documents.binpb", "rowcall image diff build/image.binpb --name shop --json")
)
def diff(
    file: FileArgument,
    *,
    name: NameOption = None,
    as_json: JsonOption = False,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
) -> None:
    """Say what would change if an image were published, and publish nothing.

    Changes of the wire, of policy, and what is added are told apart. Exits with 1 when a change would break those who were built before.
    """
    request = catalogue_service_pb2.PublishImageRequest(
        name=_name(file, name), content=_content(file), validate_only=True
    )
    with connect(address, "") as gateway:
        answer = _stub(gateway).PublishImage(request, timeout=RPC_SECONDS)
    if as_json:
        result_json(as_dict(answer))
    else:
        _print_changes(answer.changes, wide=wide)
    if any(change.breaking for change in answer.changes):
        raise CommandError("It would break those who were built before.")


@app.command(
    epilog=examples("rowcall image publish documents.binpb", 'rowcall image publish shop.binpb --note "refunds" --json')
)
def publish(
    file: FileArgument,
    *,
    name: NameOption = None,
    note: NoteOption = "",
    allow_breaking: AllowOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
) -> None:
    """Publish an image: every gateway serves it from then on, without being started again.

    It is compared with what was published under its name: where a change would break those who were built before, it is not published,
    and the command exits with 1, unless --allow-breaking.
    """
    request = catalogue_service_pb2.PublishImageRequest(
        name=_name(file, name), content=_content(file), note=note, allow_breaking=allow_breaking
    )
    with connect(address, "") as gateway:
        answer = _stub(gateway).PublishImage(request, timeout=RPC_SECONDS + _WAIT, metadata=by(actor))
    _tell(answer, request.name, as_json=as_json, wide=wide)


@app.command(epilog=examples("rowcall image rollback documents", "rowcall image rollback documents --revision 3"))
def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it was published under.", show_default=False)],
    *,
    revision: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Which revision. [default: the one before the latest]", show_default=False
        ),
    ] = 0,
    note: NoteOption = "",
    allow_breaking: AllowOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
) -> None:
    """Publish an earlier revision of an image again, as its next one. Compared as any image is."""
    request = catalogue_service_pb2.RollbackImageRequest(
        name=name, revision=revision, note=note, allow_breaking=allow_breaking
    )
    with connect(address, "") as gateway:
        answer = _stub(gateway).RollbackImage(request, timeout=RPC_SECONDS + _WAIT, metadata=by(actor))
    _tell(answer, name, as_json=as_json, wide=wide)


@app.command("list", epilog=examples("rowcall image list", "rowcall image list --name documents --json"))
def list_images(
    *,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Revisions of this image only.", show_default=False)
    ] = "",
    as_json: JsonOption = False,
    wide: WideOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
) -> None:
    """List what was published, the latest first, and how many of the gateways serve it."""
    found: list[Image] = []
    token = ""
    with connect(address, "") as gateway:
        while True:
            request = catalogue_service_pb2.ListImagesRequest(name=name, page_size=_PAGE, page_token=token)
            answer = _stub(gateway).ListImages(request, timeout=RPC_SECONDS)
            found += answer.images
            token = answer.next_page_token
            if not token:
                break
    if as_json:
        result_json({"images": [as_dict(each) for each in found]})
    elif found:
        result_table(COLUMNS, map(_row, found), wide=wide, prose=("note",))
    else:
        say("No image was published; gateways serve those of their own settings.")


def _name(file: Path, name: str | None) -> str:
    return file.stem if name is None else name


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CommandError(f"{file}: cannot be read ({error.strerror}).", ExitCode.USAGE) from error


def _tell(
    answer: catalogue_service_pb2.PublishImageResponse | catalogue_service_pb2.RollbackImageResponse,
    name: str,
    *,
    as_json: bool,
    wide: bool,
) -> None:
    if as_json:
        result_json(as_dict(answer))
    elif answer.changes:
        _print_changes(answer.changes, wide=wide)
    if answer.HasField("image"):
        image = answer.image
        say(f"{name} is published as revision {image.revision}; {_served(image)}.")
    elif any(change.breaking for change in answer.changes):
        raise CommandError(
            "It was not published: what is of the wire would break those who were built before. Publish it though: --allow-breaking."
        )
    else:
        say(f"{name} is what was published already; nothing was done.")


def _served(image: Image) -> str:
    behind = len(image.gateways_behind)
    told = f"served by {len(image.gateways)} of {len(image.gateways) + behind} gateways"
    return f"{told}, not yet by {', '.join(image.gateways_behind)}" if behind else told


def _row(image: Image) -> tuple[str, ...]:
    gateways = len(image.gateways) + len(image.gateways_behind)
    return (
        image.name,
        str(image.revision),
        image.digest[:12],
        time_text(image.publish_time),
        image.actor,
        f"{len(image.gateways)} of {gateways} gateways" if image.latest else "",
        image.note,
    )


def _print_changes(changes: Iterable[ImageChange], *, wide: bool) -> None:
    rows = [(_WORDS.get(each.kind, "other"), each.subject, each.rule, each.description) for each in changes]
    if rows:
        result_table(CHANGES, rows, wide=wide, prose=("change",))
    else:
        say("Nothing changes.")


def _stub(gateway: Gateway) -> catalogue_service_pb2_grpc.CatalogueServiceStub:
    return catalogue_service_pb2_grpc.CatalogueServiceStub(gateway.channel)
