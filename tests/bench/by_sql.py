"""The client of `start` that writes the row itself: python -m tests.bench.by_sql DSN SOCKET COUNT [key]. Prints a JSON line.

A process of its own, as the drivers of other queues are, with psycopg as most programs use it. A transaction submits, and
`wake_v1` is behind its commit in the same pipeline. With `key` each call has one. What the handler's first line says comes by a
datagram.
"""

from __future__ import annotations

import json
import random
import secrets
import socket
import sys
import time
from pathlib import Path

import psycopg

from rowcall.probe.v1.probe_pb2 import EchoRequest
from tests.bench.first_line import read
from tests.bench.stage import TENANT

WARMING = 10
METHOD = "rowcall.probe.v1.ProbeService/Echo"


def starts(dsn: str, heard: socket.socket, count: int, *, keyed: bool) -> list[float]:
    """Milliseconds of each of some jobs, one after the other, with a pause between."""
    request = EchoRequest(payload=b"x" * 200).SerializeToString(deterministic=True)
    run = secrets.token_hex(8)
    found = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        # The first ones connect, or meet what is not warm yet.
        for number in range(-WARMING, count):
            time.sleep(random.uniform(0.005, 0.03))
            key = f"{run} {number}" if keyed else None
            before = time.monotonic()
            with connection.pipeline():
                # A transaction() would wait for the server at its begin and at its end.
                connection.execute("begin")
                connection.execute("select rowcall.submit_v1(%s, %s, %s, %s)", [TENANT, METHOD, request, key])
                connection.execute("commit")
                connection.execute("select rowcall.wake_v1()")
            at = read(heard.recv(64))
            if number >= 0:
                found.append((at - before) * 1000)
    return found


def main() -> None:
    """Prints what was found."""
    dsn, path, count, *key = sys.argv[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        # A job that is not started in half a minute ends the run.
        heard.settimeout(30)
        heard.bind(path)
        found = starts(dsn, heard, int(count), keyed=bool(key))
    Path(path).unlink()
    print(json.dumps({"milliseconds": found}))


if __name__ == "__main__":
    main()
