"""`rowcall-gateway --processes 2`: one port, calls to all, crashes, signals, and the port that somebody else has."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import closing, suppress
from typing import cast

import grpc
import psycopg
import pytest

from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import RunRequest
from tests.fix_cluster import Cluster
from tests.fix_gateway import jobs, keyed, tenant
from tests.fix_services import END_SECONDS, ServiceProcess, Services
from tests.support.waiting import until

TWO = ("--processes", "2", "--grace", "2s")
NO_LOOK = "Behind a pooler there is no server to look at: the pooler's limits are its own."


def submit(address: str, key: str) -> str:
    """Submits a job over a connection of its own, again while its gateway is gone; the operation's name."""
    for _ in range(50):
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            probe = probe_pb2_grpc.ProbeServiceStub(channel)
            metadata = tenant("acme", *keyed(key, ("prefer", "wait=0")))
            try:
                return probe.Run(RunRequest(payload=b"x"), timeout=20, wait_for_ready=True, metadata=metadata).name
            except grpc.RpcError as error:
                if cast("grpc.Call", error).code() != grpc.StatusCode.UNAVAILABLE:
                    raise
    raise AssertionError("never answered")


def served(gateway: ServiceProcess) -> set[int]:
    """The numbers of the processes that have answered calls."""
    return {line["process"] for line in map(json.loads, list(gateway.log)) if line["event"] == "call"}


async def test_all_processes_answer_on_one_port_and_drain(services: Services, cluster: Cluster) -> None:
    gateway = services.gateway("127.0.0.1:0", *TWO)
    address = gateway.address()
    assert sorted(gateway.members()) == [1, 2]

    # The kernel gives each connection to either of them.
    names: list[str] = []
    while len(names) < 200 and served(gateway) != {1, 2}:
        names.append(submit(address, f"k{len(names)}"))

    assert served(gateway) == {1, 2}
    assert sorted(jobs(cluster, "name")) == sorted((name,) for name in names)
    assert gateway.end() == 0, "".join(gateway.log)
    assert gateway.all_gone()
    lines = [json.loads(line) for line in gateway.log]
    assert {line["process"] for line in lines if line["event"] == "draining"} == {1, 2}
    assert all("unlisted" not in line for line in lines), "every field is one that may be written"


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost"])
def test_addresses_that_are_several_are_shared_too(services: Services, host: str) -> None:
    gateway = services.gateway(f"{host}:0", *TWO, ROWCALL_IDENTITY="insecure-network")
    address = gateway.address()
    assert address.startswith(f"{host}:")
    assert submit(address.replace("0.0.0.0", "127.0.0.1"), "k")
    assert gateway.end() == 0, "".join(gateway.log)


async def test_no_call_is_lost_with_a_process_that_is_killed(services: Services, cluster: Cluster) -> None:
    gateway = services.gateway("127.0.0.1:0", *TWO)
    address = gateway.address()
    killed, other = gateway.members()[1], gateway.members()[2]

    names = [submit(address, f"before-{index}") for index in range(10)]
    os.kill(killed, signal.SIGKILL)
    names += [submit(address, f"meanwhile-{index}") for index in range(10)]
    await until(lambda: sum('"serving"' in line and '"process": 1' in line for line in list(gateway.log)) == 2)
    names += [submit(address, f"after-{index}") for index in range(10)]

    assert gateway.members()[1] != killed
    assert gateway.members()[2] == other, "the other one was left alone"
    assert sorted(jobs(cluster, "name")) == sorted((name,) for name in names)
    assert gateway.end() == 0, "".join(gateway.log)


async def test_a_killed_supervisor_leaves_no_gateway_behind(services: Services) -> None:
    gateway = services.gateway("127.0.0.1:0", *TWO)
    address = gateway.address()
    submit(address, "k")

    gateway.process.kill()

    assert gateway.all_gone()
    assert {line["process"] for line in map(json.loads, gateway.log) if line["event"] == "draining"} == {1, 2}


async def test_who_signals_all_processes_at_once_has_them_drain(services: Services) -> None:
    # As systemd does. The supervisor passes the signal on, and that must not count as the second one.
    gateway = services.gateway("127.0.0.1:0", "--processes", "2", "--drain-notice", "1s")
    gateway.ready()
    members = list(gateway.members().values())

    gateway.process.send_signal(signal.SIGTERM)
    await until(lambda: sum('"draining"' in line for line in list(gateway.log)) == 2)
    for member in members:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGTERM)

    assert gateway.process.wait(END_SECONDS) == 0, "".join(gateway.log)


def refused(gateway: ServiceProcess) -> bool:
    code = gateway.process.wait(END_SECONDS)
    assert gateway.all_gone()
    said = "".join(gateway.log)
    return code == 1 and said.count("rowcall-gateway: cannot listen on 127.0.0.1") == 1


def test_a_port_that_is_taken_is_refused(services: Services) -> None:
    with socket.socket() as taken:
        # Whoever is there may share it with others: not with us.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        gateway = services.gateway(f"127.0.0.1:{taken.getsockname()[1]}", *TWO)
        assert refused(gateway)
        assert not gateway.members(), "no process was started for it"


def test_the_port_of_several_is_nobody_elses(services: Services) -> None:
    address = services.gateway("127.0.0.1:0", *TWO).address()

    assert refused(services.gateway(address))
    assert refused(services.gateway(address, *TWO))


def test_the_port_of_one_is_not_shared(services: Services) -> None:
    address = services.gateway("127.0.0.1:0").address()

    # Neither with a gateway that would share its own, nor with anybody of this account.
    assert refused(services.gateway(address, *TWO))
    host, _, port = address.rpartition(":")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind((host, int(port)))


@pytest.mark.straight(NO_LOOK)
def test_pools_that_fit_once_and_not_twice_are_refused_once(services: Services, cluster: Cluster) -> None:
    with closing(psycopg.connect(cluster.catalogue_dsn)) as connection:
        row = connection.execute("select current_setting('max_connections')").fetchone()
        assert row is not None
    pools = ("--pool-submit", str(int(row[0]) // 4))

    gateway = services.gateway("127.0.0.1:0", *TWO, *pools)

    assert gateway.process.wait(END_SECONDS) == 2
    assert gateway.all_gone()
    said = "".join(gateway.log)
    assert said.count("ROWCALL_POOL_* allow 2 processes") == 1
    assert "each 2 times (ROWCALL_PROCESSES)" in said
    assert services.gateway("127.0.0.1:0", *pools).address()
