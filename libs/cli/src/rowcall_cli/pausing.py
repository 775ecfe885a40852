"""What `rowcall queues`, `methods` and `tenants` have in common where they pause and resume: flags, and what is said then."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from rowcall_cli.output import say

NoteOption = Annotated[str, typer.Option("--note", metavar="TEXT", help="What for; shown to whoever looks.")]
PauserOption = Annotated[
    str | None,
    typer.Option("--actor", metavar="NAME", help="Who pauses it; shown to whoever looks.", show_default=False),
]

Kind = Literal["queue", "method", "tenant"]


def by(actor: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata that says who pauses."""
    return () if actor is None else (("rowcall-actor", actor),)


def say_paused(kind: Kind, name: str) -> None:
    """Says that a pause holds, and how to end it."""
    say(f"The {kind} {name} is paused. To go on: rowcall {kind}s resume {name}")


def say_resumed(kind: Kind, name: str) -> None:
    """Says that no pause is left."""
    say(f"The {kind} {name} is not paused.")
