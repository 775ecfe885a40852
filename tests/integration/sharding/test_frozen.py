"""A process that was frozen, as a machine that slept is, while a session was being made: it goes on.

In a process of its own: libuv ends the one that has it watch a descriptor which is closed.
"""

from __future__ import annotations

import subprocess
import sys

from psycopg.conninfo import make_conninfo

from tests.fix_cluster import Cluster
from tests.support.places import ROOT

SECONDS = 60.0
FROZEN = """
import asyncio, os, sys, threading, time

import uvloop

from rowcall.settings import ClusterSettings
from rowcall.sharding.pools import Pool, connection_string
from tests.support.proxy import Link, Proxy, address_of

PATIENCE = 2.0
asked = threading.Event()


class Mute(Link):
    def upstream(self, data):
        if data[:1] in (b"P", b"Q"):  # Parse, Query: the session is there, and asks its first question
            asked.set()
            return b""
        return data


class MuteProxy(Proxy):
    def link(self):
        return Mute()


async def main(dsn):
    settings = ClusterSettings.model_validate({"catalogue": sys.argv[2], "shards": {"a": dsn}, "connect_timeout": f"{PATIENCE}s"})
    with MuteProxy(*address_of(dsn)) as proxy:
        through = connection_string(proxy.through(dsn), settings, application="test")
        pool = Pool(through, settings, name="test", size=1, unavailable=RuntimeError, ride_out=1)
        await pool.open()
        assert await asyncio.to_thread(asked.wait, 30)
        time.sleep(PATIENCE + 0.5)
        await asyncio.sleep(0.5)
        print("went on:", pool._failed, flush=True)
        os._exit(0)


uvloop.run(main(sys.argv[1]))
"""


def test_a_process_that_was_frozen_while_a_session_was_made_goes_on(cluster: Cluster) -> None:
    shard = make_conninfo(cluster.service_shards["a"], sslmode="disable")
    ran = subprocess.run(
        [sys.executable, "-c", FROZEN, shard, cluster.catalogue_dsn],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=SECONDS,
    )
    assert (ran.returncode, ran.stdout) == (0, "went on: a new session said nothing for 2 s\n"), ran.stderr
