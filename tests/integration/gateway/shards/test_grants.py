"""A gateway whose login was not granted its role: it says so at its start, of the database where it is missing."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from rowcall.errors import RowcallError
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways
from tests.fix_pooler import PASSWORD, make_logins


@pytest.mark.parametrize(
    ("database", "said"),
    [
        (
            "catalogue",
            "On the catalogue a right is missing: permission denied for schema rowcall_migrations.*rowcall_gateway",
        ),
        ("shard", "On shard 'a' a right is missing: permission denied for schema rowcall_migrations.*rowcall_gateway"),
    ],
)
async def test_a_login_without_the_role_is_told_which_grant_is_missing(
    cluster: Cluster, gateways: Gateways, database: str, said: str
) -> None:
    make_logins(cluster.catalogue_dsn)

    def nobody(dsn: str) -> str:
        return make_conninfo(dsn, user="test_nobody", password=PASSWORD)

    changes: dict[str, Any]
    if database == "catalogue":
        changes = {"catalogue": nobody(cluster.gateway.catalogue)}
    else:
        changes = {"shards": {**cluster.gateway.shards, "a": nobody(cluster.gateway.shards["a"])}}
    with pytest.raises(RowcallError, match=said):
        await gateways.start(**changes)
