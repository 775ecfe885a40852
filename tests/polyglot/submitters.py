"""Services in other languages that share a shard: each writes a row of its own and submits a job in one transaction.

Behind a commit each has workers look, as the docs say.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from rowcall.embedded.account import choose
from rowcall.embedded.binaries import find

End = Literal["commit", "rollback"]

NODE = Path(__file__).parent / "node"
_SECONDS = 60.0
_PSQL = """
\\set VERBOSITY verbose
begin;
insert into orders (number) values (:'order');
select rowcall.submit_v1(:'tenant', :'method', decode(:'request', 'hex'), nullif(:'request_id', ''));
"""
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Order:
    """What a service does in one transaction."""

    dsn: str = field(repr=False)
    """Of the shard, as the service's own login."""
    number: str
    """Of the order that it writes."""
    method: str
    request: bytes
    request_id: str | None
    tenant: str = "shop"
    end: End = "commit"


@dataclass(frozen=True, slots=True)
class Answer:
    """What it was told."""

    job: str | None
    """The job's id."""
    sqlstate: str | None = None
    """Of the error."""
    message: str = ""


class Submitter(Protocol):
    """A service."""

    async def __call__(self, order: Order) -> Answer:
        """Runs one transaction."""


async def psql(order: Order, program: Path) -> Answer:
    """A script of psql."""
    variables = {
        "order": order.number,
        "tenant": order.tenant,
        "method": order.method,
        "request": order.request.hex(),
        "request_id": order.request_id or "",
    }
    command: list[str | Path] = [program, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]
    for name, value in variables.items():
        command += ["-v", f"{name}={value}"]
    wake = "select rowcall.wake_v1();\n" if order.end == "commit" else ""
    ended = await _run(command, order.dsn, f"{_PSQL}{order.end};\n{wake}")
    error = re.search(r"ERROR:  (\w{5}): (.*)", ended.stderr)
    if error is not None:
        return Answer(None, error[1], error[2])
    assert ended.returncode == 0, ended.stderr
    found = _UUID.search(ended.stdout)
    assert found is not None, ended.stdout
    return Answer(found[0])


async def node(order: Order, folder: Path) -> Answer:
    """A program for Node, with the package pg."""
    call = {
        "order": order.number,
        "tenant": order.tenant,
        "method": order.method,
        "request": base64.b64encode(order.request).decode(),
        "requestId": order.request_id,
        "options": {"labels": {"from": "node"}},
    }
    ended = await _run(["node", folder / "submit.js", order.end], order.dsn, json.dumps(call))
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    answer = json.loads(ended.stdout)
    return Answer(answer.get("job"), answer.get("sqlstate"), answer.get("message", ""))


async def python(order: Order) -> Answer:
    """Psycopg, with what it sends as text."""
    async with await psycopg.AsyncConnection.connect(order.dsn, cursor_factory=psycopg.AsyncClientCursor) as connection:
        try:
            await connection.execute("insert into orders (number) values (%s)", [order.number])
            cursor = await connection.execute(
                "select rowcall.submit_v1(%s, %s, %s, %s)",
                [order.tenant, order.method, order.request, order.request_id],
            )
            row = await cursor.fetchone()
            await (connection.commit() if order.end == "commit" else connection.rollback())
            if order.end == "commit":
                await connection.execute("select rowcall.wake_v1()")
        except psycopg.Error as error:
            await connection.rollback()
            return Answer(None, error.sqlstate, str(error))
    assert row is not None
    return Answer(str(row[0]))


def find_psql(run_directory: Path) -> Path:
    """The psql that came with the run's Postgres, or the machine's."""
    own = find(None, choose(run_directory)).program("psql")
    program = own if os.access(own, os.X_OK) else shutil.which("psql")
    if program is None:
        pytest.skip("NOT TRIED FROM PSQL: there is none beside the run's Postgres and none on PATH")
    return Path(program)


def install_node(folder: Path) -> Path:
    """The programs for Node with what they depend on, in the very versions of the lock file."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("NOT TRIED FROM NODE: node and npm are not on PATH")
    shutil.copytree(NODE, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(command, cwd=folder, check=True, timeout=_SECONDS)
    return folder


async def _run(command: list[str | Path], dsn: str, given: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that is told of the database as all of them understand it: by libpq's environment variables."""
    parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    database = {
        variable: parts[name]
        for name, variable in (
            ("host", "PGHOST"),
            ("port", "PGPORT"),
            ("dbname", "PGDATABASE"),
            ("user", "PGUSER"),
            ("password", "PGPASSWORD"),
        )
    }
    return await asyncio.to_thread(
        subprocess.run,
        command,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
        env={**os.environ, **database, "PGSSLMODE": "disable"},
    )
