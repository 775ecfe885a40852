"""What is in the databases of a cluster, whole, to be compared with what was there before."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from psycopg import sql

from tests.fix_cluster import Cluster

UPKEEP = frozenset(
    {
        # Where tenants' turns stand, who looks after what.
        "rowcall.turn",
        "rowcall.elected",
        # That gateways and workers live, and what gateways need of bounds: a row each second, once there is a bound.
        "rowcall_catalogue.gateway",
        "rowcall.worker_beat",
        "rowcall.admitting",
        "rowcall.admitting_beat",
        # What images' types are.
        "rowcall.message_type",
        # What is copied from tables that are compared: the catalogue's bounds, the audit's rows into their chain.
        "rowcall.bound",
        "rowcall.audit_seal",
        "rowcall.audit_sealer",
        # What happened to jobs, as gateways and workers counted it.
        "rowcall.tally",
        # How long queues are, looked at for bounds.
        "rowcall.queue_look",
        # What queues and workers stand at, looked at for gauges.
        "rowcall.depth_look",
    }
)
"""Tables that a gateway writes to without being asked."""

Contents = Mapping[tuple[str, str], tuple[str, ...]]
"""Rows as text, in order, by database and table."""

_TABLES = """
select n.nspname, c.relname
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where n.nspname like 'rowcall%' and c.relkind in ('r', 'p') and not c.relispartition
order by 1, 2
"""


def contents(cluster: Cluster) -> Contents:
    """Every row of every table of ours, but for those of upkeep."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for name, dsn in {"catalogue": cluster.catalogue_dsn, **cluster.shards}.items():
        with psycopg.connect(dsn) as connection:
            tables = [each for each in connection.execute(_TABLES).fetchall() if ".".join(each) not in UPKEEP]
            parts = [
                sql.SQL("select {}, t::text from {} t").format(table, sql.Identifier(schema, table))
                for schema, table in tables
            ]
            rows = connection.execute(sql.SQL(" union all ").join(parts)).fetchall()
        for _, table in tables:
            found[name, table] = tuple(sorted(text for of, text in rows if of == table))
    return found


def told_of_its_methods(cluster: Cluster) -> bool:
    """Whether a gateway has told every shard of its methods and types, as it does once it is started, types last."""
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            if connection.execute("select from rowcall.message_type limit 1").fetchone() is None:
                return False
    return True


def changes(before: Contents, after: Contents) -> list[str]:
    """What is different, a line a row."""
    return [
        f"{'/'.join(place)}: {sign} {row}"
        for place in sorted(before.keys() | after.keys())
        for sign, rows in (
            ("-", set(before.get(place, ())) - set(after.get(place, ()))),
            ("+", set(after.get(place, ())) - set(before.get(place, ()))),
        )
        for row in sorted(rows)
    ]
