"""`rowcall migrate`: the schema of the catalogue and of every shard, and the roles it needs, applied or shown."""

from __future__ import annotations

import asyncio
import enum
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import typer

from rowcall import migrations
from rowcall.migrations import Kind, Lacks, MigrationError, Status
from rowcall.settings import ClusterSettings, SettingsError, read_settings, with_password_file
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.output import examples, result_json, result_table, say

EXAMPLES = examples(
    "rowcall migrate --catalogue postgresql://…/catalogue --shard a=postgresql://…/a --shard b=postgresql://…/b",
    "rowcall migrate --phase pre   # ROWCALL_CATALOGUE and ROWCALL_SHARDS are set, as for the services",
    "rowcall migrate --roles print > roles.sql   # for the administrator of a server that gives no CREATEROLE",
)


class PhaseOption(enum.StrEnum):
    """--phase"""

    PRE = "pre"
    POST = "post"
    ALL = "all"


class RolesOption(enum.StrEnum):
    """--roles"""

    CREATE = "create"
    CHECK = "check"
    PRINT = "print"


class MigrateSettings(ClusterSettings):
    """Which databases there are: the same variables that gateway and worker read."""

    program: ClassVar[str] = "rowcall migrate"
    usage_example: ClassVar[str] = "rowcall migrate --catalogue postgresql://… --shard a=postgresql://…"


@dataclass(frozen=True, slots=True)
class Database:
    """One database to migrate."""

    kind: Kind
    shard: str | None
    """The shard's name; None for the catalogue."""
    dsn: str
    """May carry a password: it is passed on, never shown."""

    @property
    def label(self) -> str:
        """What it is called in what people read."""
        return "catalogue" if self.shard is None else f"shard {self.shard}"

    @property
    def fields(self) -> Mapping[str, object]:
        """What it is called in JSON."""
        return {"kind": self.kind} if self.shard is None else {"kind": self.kind, "shard": self.shard}


def migrate(
    *,
    catalogue: Annotated[
        str | None, typer.Option(metavar="DSN", help="The catalogue. [env: ROWCALL_CATALOGUE]", show_default=False)
    ] = None,
    shard: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=DSN", help="A shard; once for each. [env: ROWCALL_SHARDS, a JSON object]", show_default=False
        ),
    ] = None,
    phase: Annotated[
        PhaseOption,
        typer.Option(help="pre: before the new release is started; post: when the old one is gone; all: both."),
    ] = PhaseOption.ALL,
    roles: Annotated[
        RolesOption,
        typer.Option(
            help="create: make the roles that the servers lack, where the login may, and migrate; check: only say what is "
            "lacking, and who mends it; print: only print the SQL that an administrator runs once on each server."
        ),
    ] = RolesOption.CREATE,
    status: Annotated[
        bool, typer.Option("--status", help="Show what is applied and what is not; change nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Migrate the catalogue and every shard.

    Brings their schema to this release's. Each file is applied and recorded in one transaction, by one run at a time; a run that was interrupted is simply
    started again. Services never migrate. --status exits with 1 when something is pending or does not match, --roles check
    when something is lacking.
    """
    if roles is not RolesOption.CREATE and (status or phase is not PhaseOption.ALL):
        raise CommandError(f"--roles {roles.value} goes without --status and --phase.", ExitCode.USAGE)
    if roles is RolesOption.PRINT and as_json:
        raise CommandError("--roles print prints SQL: it goes without --json.", ExitCode.USAGE)
    databases = list(_databases(catalogue, shard or [], direct=not status and roles is RolesOption.CREATE))
    if roles is RolesOption.PRINT:
        targets = [migrations.Target(each.kind, each.label, each.dsn) for each in databases]
        sys.stdout.write(migrations.roles_script(targets))
    elif roles is RolesOption.CHECK:
        asyncio.run(_check(databases, as_json=as_json))
    elif status:
        asyncio.run(_show(databases, phase, as_json=as_json))
    else:
        asyncio.run(_migrate(databases, phase, as_json=as_json))


def _databases(catalogue: str | None, shards: Sequence[str], *, direct: bool) -> Iterator[Database]:
    flags = [] if catalogue is None else ["--catalogue", catalogue]
    for shard in shards:
        flags += ["--shard", shard]
    try:
        settings = read_settings(MigrateSettings, flags)
    except SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    if direct and settings.transaction_pooler:
        # Its lock is a session's, and would stay with whichever of the pooler's connections took it.
        raise CommandError(
            "ROWCALL_TRANSACTION_POOLER says that the connection strings lead to a pooler in transaction mode, and a "
            "migration locks its database for a whole session. Name the databases themselves, with --catalogue and "
            "--shard, and set ROWCALL_TRANSACTION_POOLER=false for this command.",
            ExitCode.USAGE,
        )
    yield Database("catalogue", None, with_password_file(settings.catalogue, settings.password_file))
    for name, dsn in settings.shards.items():
        yield Database("shard", name, with_password_file(dsn, settings.password_file))


async def _migrate(databases: Sequence[Database], phase: PhaseOption, *, as_json: bool) -> None:
    done: list[dict[str, object]] = []
    for database in databases:

        def progress(line: str, label: str = database.label) -> None:
            say(f"{label}: {line}")

        try:
            applied = await migrations.migrate(
                database.dsn, database.kind, shard=database.shard, phase=phase.value, progress=progress
            )
        except MigrationError as error:
            raise _failed(database, error, [str(one["label"]) for one in done]) from error
        say(f"{database.label}: {f'{len(applied)} applied' if applied else 'up to date'}")
        done.append({"label": database.label, **database.fields, "applied": applied})
    if as_json:
        result_json({"databases": [{key: one[key] for key in one if key != "label"} for one in done]})


async def _check(databases: Sequence[Database], *, as_json: bool) -> None:
    found: list[tuple[Database, Lacks]] = []
    for database in databases:
        try:
            found.append((database, await migrations.lacks(database.dsn, database.kind)))
        except MigrationError as error:
            raise _failed(database, error, []) from error
    if as_json:
        result_json(
            {
                "databases": [
                    {
                        **database.fields,
                        "login": lacks.login,
                        "missing": list(lacks.missing),
                        "makes_missing": lacks.makes,
                        "lacking": list(lacks.told),
                    }
                    for database, lacks in found
                ]
            }
        )
    else:
        for database, lacks in found:
            if lacks.missing and lacks.makes:
                say(f"{database.label}: {', '.join(lacks.missing)} will be made by rowcall migrate")
            elif not lacks.told:
                say(f"{database.label}: nothing is lacking")
            for line in lacks.told:
                say(f"{database.label}: {line}")
    if any(lacks.told for _, lacks in found):
        raise CommandError("rowcall migrate would be refused.")


async def _show(databases: Sequence[Database], phase: PhaseOption, *, as_json: bool) -> None:
    found: list[tuple[Database, Sequence[Status]]] = []
    for database in databases:
        try:
            rows = await migrations.status(database.dsn, database.kind)
        except MigrationError as error:
            raise _failed(database, error, []) from error
        wanted = [row for row in rows if phase in (PhaseOption.ALL, row.name.partition("/")[0])]
        found.append((database, wanted))
    if as_json:
        result_json(
            {
                "databases": [
                    {
                        **database.fields,
                        "migrations": [
                            {
                                "name": row.name,
                                "state": row.state,
                                "applied_at": None if row.applied_at is None else row.applied_at.isoformat(),
                            }
                            for row in rows
                        ],
                    }
                    for database, rows in found
                ]
            }
        )
    else:
        result_table(
            ("database", "migration", "state", "applied at"),
            [
                (
                    database.label,
                    row.name,
                    row.state,
                    "" if row.applied_at is None else row.applied_at.isoformat(sep=" ", timespec="seconds"),
                )
                for database, rows in found
                for row in rows
            ],
        )
    wrong = [row for _, rows in found for row in rows if row.state in ("pending", "changed")]
    if wrong:
        raise CommandError(f"{len(wrong)} migrations are not as this release has them. Run: rowcall migrate")


def _failed(database: Database, error: MigrationError, done: Sequence[str]) -> CommandError:
    unreachable = isinstance(error, migrations.UnreachableError)
    before = (
        f"\nDone before it: {', '.join(done)}. Run it again when this is put right: it goes on here." if done else ""
    )
    return CommandError(f"{database.label}: {error}{before}", ExitCode.UNREACHABLE if unreachable else ExitCode.FAILED)
