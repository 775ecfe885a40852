"""`rowcall access`: who may call each method that a gateway with these images and settings would serve. Asks no gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import typer

from rowcall.catalogue.access import Source
from rowcall.catalogue.grants import AccessTable, MethodAccess, access_table
from rowcall.catalogue.images import ImageError, load_catalogue
from rowcall.catalogue.served import ServedSettings
from rowcall.settings import SettingsError, read_settings
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.output import WideOption, examples, result_json, result_table

EXAMPLES = examples(
    "rowcall access --image documents.binpb",
    "rowcall access --image documents.binpb --access-default roles:caller --json",
)

COLUMNS = ("method", "who may call", "source")


class AccessSettings(ServedSettings):
    """What would be served, and to whom: the same variables that the gateway reads."""

    program: ClassVar[str] = "rowcall access"
    usage_example: ClassVar[str] = "rowcall access --image documents.binpb"


def access(
    *,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="A descriptor image; once for each. [env: ROWCALL_IMAGES]", show_default=False
        ),
    ] = None,
    access_default: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="The rule of methods whose images give them none, such as roles:caller. [env: ROWCALL_ACCESS_DEFAULT]",
        ),
    ] = "",
    image_role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE", help="A role that images may name. [env: ROWCALL_IMAGE_ROLES]", show_default=False
        ),
    ] = None,
    image_scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE", help="A scope that images may name. [env: ROWCALL_IMAGE_SCOPES]", show_default=False
        ),
    ] = None,
    public_tenant: Annotated[
        str,
        typer.Option(metavar="NAME", help="Whose the calls are that bring no credential. [env: ROWCALL_PUBLIC_TENANT]"),
    ] = "",
    wide: WideOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Print who may call each method, and where that is said.

    A gateway with the same images and settings goes by the same table; flags go before the variables that it reads. Source is own (the
    method's option), service (its service's), default (--access-default), built-in (Rowcall's own methods, which no image changes), or
    none. Exits with 1 where a gateway would not start: a rule grants more than images may, or, for one that knows its callers by
    credentials, a method has no rule.
    """
    settings = _settings(image, access_default, image_role, image_scope, public_tenant)
    try:
        catalogue = load_catalogue(settings.images, builtin=settings.probe, compiled=False)
    except ImageError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    table = access_table(catalogue, settings)
    if as_json:
        methods = [{"method": name, **_fields(each)} for name, each in table.methods.items()]
        result_json({"methods": methods, "violations": list(table.violations), "without_rule": list(table.ruleless)})
    else:
        rows = [(name, str(each.rule).replace(",", ", "), each.source.value) for name, each in table.methods.items()]
        result_table(COLUMNS, rows, wide=wide)
    _refuse(table)


def _settings(
    images: list[Path] | None,
    default: str,
    roles: list[str] | None,
    scopes: list[str] | None,
    public_tenant: str,
) -> AccessSettings:
    flags: list[str] = []
    for flag, values in (("--image", images), ("--image-role", roles), ("--image-scope", scopes)):
        for value in values or ():
            flags += [flag, str(value)]
    for flag, text in (("--access-default", default), ("--public-tenant", public_tenant)):
        flags += [flag, text] if text else []
    try:
        return read_settings(AccessSettings, flags)
    except SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error


def _fields(access: MethodAccess) -> dict[str, object]:
    rule = None if access.source is Source.NONE else access.rule
    return {
        "roles": [] if rule is None else sorted(rule.roles),
        "scopes": [] if rule is None else sorted(rule.scopes),
        "public": rule is not None and rule.public,
        "source": access.source.value,
    }


def _refuse(table: AccessTable) -> None:
    parts = []
    if table.violations:
        parts.append("\n".join(["No gateway starts with these images:", *table.violations]))
    if table.lacking:
        parts.append(
            "\n".join(
                [
                    "A gateway that knows its callers by credentials (ROWCALL_IDENTITY=jwt, mtls) does not start:",
                    *table.lacking,
                ]
            )
        )
    if parts:
        raise CommandError("\n\n".join(parts))
