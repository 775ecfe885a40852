"""The entry of the `rowcall` command: its sub-commands, and what an error of theirs looks like."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from typing import Annotated, Final

import typer

from rowcall.settings import unknown_settings
from rowcall_cli import (
    access,
    admission,
    audit,
    images,
    incidents,
    jobs,
    methods,
    migrate,
    probe,
    queues,
    revocations,
    spend,
    submit,
    tenant_data,
    top,
    trace,
    versions,
    workers,
)
from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.output import say
from rowcall_cli.reach.flags import add_flags

_HELP: Final = ("-h", "--help")
_WITH_SETTINGS: Final = ("migrate", "serve")

app = typer.Typer(
    name="rowcall",
    help="Rowcall: a typed gRPC call, kept as a Postgres row until it is answered.",
    epilog="Exit codes: 0 done; 1 refused or failed; 2 wrong command line or setting; 3 no gateway or database "
    "answers; 4 the job goes on, or more jobs are left; 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": list(_HELP)},
)

app.command(epilog=migrate.EXAMPLES)(migrate.migrate)
app.add_typer(jobs.app, name="jobs")
app.add_typer(queues.app, name="queues")
app.add_typer(methods.app, name="methods")
app.add_typer(images.app, name="image")
app.add_typer(tenant_data.tenants, name="tenants")
app.add_typer(workers.app, name="workers")
app.add_typer(admission.app, name="admission")
app.add_typer(audit.app, name="audit")
app.add_typer(incidents.app, name="errors")
app.command(epilog=top.EXAMPLES)(top.top)
app.command(epilog=versions.EXAMPLES)(versions.versions)
app.command(epilog=spend.EXAMPLES)(spend.spend)
app.command(epilog=trace.TRACE_EXAMPLES)(trace.trace)
app.command(epilog=trace.LIST_EXAMPLES)(trace.actions)
app.command(epilog=revocations.REVOKE_EXAMPLES)(revocations.revoke)
app.command(epilog=revocations.LIST_EXAMPLES)(revocations.revocations)
app.command(epilog=access.EXAMPLES)(access.access)
app.command(epilog=submit.EXAMPLES)(submit.submit)
app.command(epilog=probe.EXAMPLES)(probe.probe)

# The development system is an extra: the operators' commands need no service installed.
if importlib.util.find_spec("rowcall_standalone") is not None:
    from rowcall_standalone import commands

    app.add_typer(commands.app)

add_flags(app)


def _version(asked: bool) -> None:
    if asked:
        print(f"rowcall {importlib.metadata.version('rowcall-cli')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    *,
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Rowcall: a typed gRPC call, kept as a Postgres row until it is answered."""
    # A typo must not send a command to another gateway or tenant than was meant. Help is given all the same; migrate and serve
    # tell of typos themselves, with everything else that is wrong with their settings.
    if context.invoked_subcommand not in _WITH_SETTINGS and not set(_HELP).intersection(sys.argv):
        problems = unknown_settings(os.environ)
        if problems:
            raise CommandError("\n".join(f"{each.where} {each.what}" for each in problems), ExitCode.USAGE)


def main() -> int:
    """Run the command line; returns the exit status (see ExitCode)."""
    try:
        app()
    except CommandError as error:
        # What is wrong with settings begins with the command that reads them.
        said = str(error)
        say(said if said.startswith("rowcall ") else f"rowcall: {said}", style="red")
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return ExitCode.OK
