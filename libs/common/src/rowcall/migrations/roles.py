"""The roles that a server must have before the first file is applied, and what the login needs that applies it.

Roles are the server's and not a database's, and who owns a database may not be allowed to make any: so they are no migration.
Which there are is what the manifests name (rights.toml), and the owner. Made by the runner where the login may; else told of, by
name. `rowcall migrate --roles` prints them and says what is lacking.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from rowcall.migrations.discovery import Kind
from rowcall.migrations.errors import MigrationError

OWNER: Final = "rowcall_owner"
"""Owns schemas, tables and functions; the functions act as it."""

RIGHTS: Final = "rights.toml"
"""Beside `pre` and `post`: which role may do what, whole. Its keys are the roles."""

SCHEMAS: Final[dict[Kind, str]] = {"catalogue": "rowcall_catalogue", "shard": "rowcall"}
"""What is in a schema of its own, of each kind of database. The record is in rowcall_migrations."""

_EXAMPLE: Final = "rowcall_migrator"
"""The login that migrates, where it cannot be told; docs/operating.md calls it so."""

_SET_OPTION: Final = 160000
"""From 16 on a membership says whether the member may act as the role (SET) and has its rights (INHERIT), and CREATEROLE alone
grants no role that its login has not made."""

_PLAIN: Final = "nologin nosuperuser nocreatedb nocreaterole noreplication nobypassrls"

_LOOK = """
select
  current_user::text,
  current_database()::text,
  m.rolsuper or m.rolcreaterole,
  array(
    select w.role from unnest(%(roles)s::text[]) with ordinality w (role, place)
    where to_regrole(w.role) is null
    order by w.place
  ),
  array(
    select r.rolname::text
    from pg_roles r
    where r.rolname = any (%(roles)s::text[])
      and (r.rolcanlogin or r.rolsuper or r.rolcreatedb or r.rolcreaterole or r.rolreplication or r.rolbypassrls)
    order by 1
  ),
  coalesce(
    pg_has_role(current_user, to_regrole(%(owner)s)::oid, %(become)s)
      and pg_has_role(current_user, to_regrole(%(owner)s)::oid, 'usage'),
    false
  ),
  coalesce(
    %(by_attribute)s and m.rolcreaterole
      or pg_has_role(current_user, to_regrole(%(owner)s)::oid, 'member with admin option'),
    false
  ),
  (to_regnamespace(%(schema)s) is not null and to_regnamespace('rowcall_migrations') is not null)
    or has_database_privilege(current_database(), 'create'),
  m.rolinherit
from pg_roles m
where m.rolname = current_user
"""

_MAKE: Final = """\
do $$
declare
  v_role text;
begin
  foreach v_role in array array[
    {roles}
  ] loop
    begin
      if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
        execute format('create role %I nologin', v_role);
      end if;
    exception
      -- Another database of this server is migrated at the same time.
      when duplicate_object or unique_violation then null;
    end;
  end loop;
end
$$;
"""

_PAGE: Final = """\
-- The roles of Rowcall, for a server that gives "rowcall migrate" no right to make them (CREATEROLE). Whoever has it (a superuser,
-- or the administrator's login of a managed server) runs this once on each server that is named below, in any database of it;
-- again does no harm. A later release that needs another role says so, by name, before it changes anything.
--
{servers}

-- What owns Rowcall's schemas, and what services and people are granted. None of them can log in.
{make}
-- Who runs "rowcall migrate" acts as the owner. The login must be there, and own its databases:
--   create role {example} login password '…';
--   create database … owner {example};
--   revoke all on database … from public;
{grants}
-- What gateways, workers and people log in as is yours to make and to name:
--   create role rowcall_gateway_login login password '…';
--   grant rowcall_gateway to rowcall_gateway_login;
--   create role rowcall_worker_login login password '…';
--   grant rowcall_worker to rowcall_worker_login;
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A database that is, or will be, migrated."""

    kind: Kind
    label: str
    """What people call it: "catalogue", "shard a"."""
    dsn: str
    """Its connection string; whose login migrates."""


@dataclass(frozen=True, slots=True)
class Lacks:
    """What a server and one of its databases lack for a login to migrate it."""

    login: str
    database: str
    makes: bool
    """Whether the login may make roles."""
    missing: tuple[str, ...]
    """Roles that the server does not have."""
    able: tuple[str, ...]
    """Roles of ours that may log in, or do what no role of ours may."""
    acts: bool
    """Whether the login acts as the owner."""
    admits: bool
    """Whether it may have itself act as the owner."""
    creates: bool
    """Whether the login may make the schemas that are not there."""
    grant: str
    """What has it act as the owner: a statement, or two."""

    @property
    def told(self) -> Sequence[str]:
        """A sentence for each thing that a migration cannot mend by itself, with what does; none where there is nothing."""
        said = []
        if self.missing and not self.makes:
            said.append(
                f"The server has no role {', '.join(self.missing)}, and the login {self.login!r} may not make roles: an "
                'administrator of the server runs, once, what "rowcall migrate --roles=print" prints.'
            )
        elif not self.missing and not self.acts and not self.admits:
            said.append(f"The login {self.login!r} does not act as {OWNER}: an administrator runs: {self.grant};")
        if self.able:
            said.append(
                f"{', '.join(self.able)} can log in, or do what belongs to the server: nobody could be refused what they "
                f"may: an administrator runs: {' '.join(f'alter role {role} {_PLAIN};' for role in self.able)}"
            )
        if not self.creates:
            said.append(
                f"The login {self.login!r} may not make schemas in the database {self.database!r}: its owner, or an "
                f"administrator, runs: alter database {_quoted(self.database)} owner to {_quoted(self.login)};"
            )
        return said


def names(kind: Kind) -> tuple[str, ...]:
    """The roles that a kind of database needs, the owner first."""
    manifest = tomllib.loads(files("rowcall.migrations").joinpath(kind, RIGHTS).read_text("utf-8"))
    return (OWNER, *manifest)


def script(targets: Sequence[Target]) -> str:
    """The SQL that an administrator runs once on each server: nothing is connected to.

    Args:
        targets: The databases, one or more; of their connection strings the login and the server are shown, no password.
    """
    servers: dict[str, list[str]] = {}
    logins: dict[str, None] = {}
    for target in targets:
        place, login = _server_and_login(target.dsn)
        servers.setdefault(place, []).append(target.label)
        logins.setdefault(_quoted(login))
    return _PAGE.format(
        servers="\n".join(f"--   {place}: {', '.join(labels)}" for place, labels in servers.items()),
        make=_make(dict.fromkeys(role for target in targets for role in names(target.kind))),
        example=next(iter(logins)),
        grants="".join(f"grant {OWNER} to {login};\n" for login in logins),
    )


async def look(connection: psycopg.AsyncConnection[Any], kind: Kind) -> Lacks:
    """What is lacking for this connection's login to migrate this database. Raises psycopg.Error."""
    by_option = connection.info.server_version >= _SET_OPTION
    parameters = {
        "roles": list(names(kind)),
        "owner": OWNER,
        "become": "set" if by_option else "member",
        "by_attribute": not by_option,
        "schema": SCHEMAS[kind],
    }
    row = await (await connection.execute(_LOOK, parameters)).fetchone()
    if row is None:
        raise AssertionError("a session has a role")
    login, database, makes, missing, able, acts, admits, creates, inherits = row
    grant = f"grant {OWNER} to {_quoted(login)}"
    if by_option:
        grant += " with inherit true, set true"
    elif not inherits:
        # Before 16 that is the login's, of all that it is granted.
        grant += f"; alter role {_quoted(login)} inherit"
    return Lacks(login, database, makes, tuple(missing), tuple(able), acts, admits, creates, grant)


async def ensure(connection: psycopg.AsyncConnection[Any], kind: Kind) -> Sequence[str]:
    """Makes what is lacking, where the login may; what was made, a line each.

    Raises:
        MigrationError: Something is lacking that the login may not make: all of it, with who does what.
        psycopg.Error: The server does not answer, or two databases of it that are migrated at once collided.
    """
    made = []
    try:
        lacks = await look(connection, kind)
        if lacks.missing and lacks.makes:
            async with connection.transaction():
                await connection.execute(_make(lacks.missing).encode())
            made.append(f"made the roles {', '.join(lacks.missing)}")
            lacks = await look(connection, kind)
        if not lacks.acts and lacks.admits:
            # Who makes a role administers it, and from 16 on does not act as it before it has granted it to itself.
            async with connection.transaction():
                await connection.execute(lacks.grant.encode())
            made.append(f"granted {OWNER} to {lacks.login}")
            lacks = await look(connection, kind)
    except psycopg.errors.InsufficientPrivilege as error:
        lacks = await look(connection, kind)
        if not lacks.told:
            raise
        raise _refused(lacks) from error
    if lacks.told:
        raise _refused(lacks)
    return made


def _refused(lacks: Lacks) -> MigrationError:
    return MigrationError(f"{' '.join(lacks.told)} Nothing was changed in the database.")


def _make(roles: Iterable[str]) -> str:
    """A statement that makes those of the roles that are not there."""
    return _MAKE.format(roles=",\n    ".join(f"'{role}'" for role in roles))


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def _server_and_login(dsn: str) -> tuple[str, str]:
    """Where a connection string leads, in words, and as whom: with what it leaves to the environment and to libpq."""
    said = {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
    if "service" in said:
        # Its file says the rest, and only libpq reads that, when it connects.
        return f"the service {said['service']}", said.get("user", _EXAMPLE)
    found = {
        option.keyword.decode(): option.val.decode() for option in Conninfo.get_defaults() if option.val is not None
    }
    found.update(said)
    host = found.get("host") or found.get("hostaddr") or "a local socket"
    return f"{host}, port {found.get('port', '5432')}", found.get("user", _EXAMPLE)
