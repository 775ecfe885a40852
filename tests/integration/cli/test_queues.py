"""`rowcall queues`, `methods` and `tenants` against a running system."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest

from rowcall.v1.queue_service_pb2 import ListQueuesRequest
from rowcall.v1.queue_service_pb2_grpc import QueueServiceStub
from tests.fix_cluster import Cluster
from tests.fix_commands import Ran
from tests.fix_dev import Dev
from tests.fix_gateway import Gateways
from tests.support.gate import Gate
from tests.support.waiting import until

ECHO = "rowcall.probe.v1.ProbeService/Echo"
QUEUE = "probe"
TENANT = "cli-queues"

Command = Callable[..., Ran]


@pytest.fixture
def command(rowcall: Command, standing_dev: Dev) -> Iterator[Command]:
    """Runs `rowcall ARGUMENTS` for a tenant of these tests, which has a job; nothing stays paused after it."""

    def run(*arguments: str, **variables: str) -> Ran:
        return rowcall(*arguments, **{"ROWCALL_ADDRESS": standing_dev.address, "ROWCALL_TENANT": TENANT, **variables})

    assert run("submit", ECHO, "--wait", "20").code == 0
    yield run
    for kind, name in (("queue", QUEUE), ("method", ECHO), ("tenant", TENANT)):
        assert run(f"{kind}s", "resume", name).code == 0


def test_queues_are_listed_and_shown(command: Command) -> None:
    listed = command("queues", "list")
    assert listed.code == 0, listed.err
    header, *rows = listed.out.splitlines()
    assert header.split() == ["queue", "ready", "oldest", "held", "running", "scheduled", "served", "by", "paused"]
    [row] = [row for row in rows if row.split()[:1] == [QUEUE]]
    assert row.rstrip().endswith(" 1 worker")

    as_json = command("queues", "list", "--json").json
    assert as_json["unreachable_shards"] == []
    [queue] = [each for each in as_json["queues"] if each["name"] == QUEUE]
    assert (queue["held"], queue["capped"], queue["workers"]) == (0, False, 1)
    assert (queue["unserved_methods"], "unserved" in queue) == ([], False)

    shown = command("queues", "show", QUEUE, "--json").json
    assert {name: type(shown[name]) for name in ("ready", "held", "running", "scheduled")} == dict.fromkeys(
        ("ready", "held", "running", "scheduled"), int
    )
    assert ["queue", QUEUE] in [line.split() for line in command("queues", "show", QUEUE).out.splitlines()]


def test_a_paused_queue_holds_jobs_and_a_resumed_one_runs_them(command: Command) -> None:
    paused = command("queues", "pause", QUEUE, "--note", "rebuild", "--actor", "ada")
    assert paused.code == 0, paused.err
    assert f"rowcall queues resume {QUEUE}" in paused.err

    held = command("submit", ECHO, "--key", "held", "--wait", "1")
    assert held.code == 4, held.err
    shown = command("queues", "show", QUEUE, "--json").json
    assert (shown["ready"] >= 1, shown["pause"]["actor"], shown["pause"]["note"]) == (True, "ada", "rebuild")
    assert datetime.fromisoformat(shown["pause"]["pause_time"]).tzinfo is not None
    lines = command("queues", "show", QUEUE).out.splitlines()
    assert any(line.startswith("paused") and line.endswith("ada rebuild") for line in lines)
    [pause] = command("queues", "pauses", "--json").json["pauses"]
    assert (pause["queue"], pause["info"]["note"]) == (QUEUE, "rebuild")
    assert ["queue", QUEUE] in [line.split()[:2] for line in command("queues", "pauses").out.splitlines()]
    [name] = [line.split()[-1] for line in held.err.splitlines() if "rowcall jobs show" in line]
    [why] = [line for line in command("jobs", "show", name).out.splitlines() if line.startswith("waits for")]
    assert why.removeprefix("waits for").strip().startswith("its queue is paused, since ")
    assert why.endswith(", by ada: rebuild")
    [row] = [line for line in command("jobs", "list", "--waiting").out.splitlines() if name in line]
    assert row.rstrip().endswith(", by ada: rebuild")
    [job] = command("jobs", "list", "--waiting", "--json").json["jobs"]
    assert [(wait["reason"], wait["actor"], wait["note"]) for wait in job["waits"]] == [
        ("WAIT_REASON_QUEUE_PAUSED", "ada", "rebuild")
    ]

    assert command("queues", "resume", QUEUE).code == 0
    assert command("submit", ECHO, "--key", "held", "--wait", "20").code == 0
    assert "Nothing is paused." in command("queues", "pauses").err


@pytest.mark.parametrize(("kind", "name", "told"), [("method", ECHO, ECHO), ("tenant", TENANT, f"tenants/{TENANT}")])
def test_methods_and_tenants_are_paused_alike(command: Command, kind: str, name: str, told: str) -> None:
    assert command(f"{kind}s", "pause", name).code == 0
    assert [pause[kind] for pause in command("queues", "pauses", "--json").json["pauses"]] == [told]
    assert [kind, name] in [line.split()[:2] for line in command("queues", "pauses").out.splitlines()]
    assert command(f"{kind}s", "resume", name).code == 0
    assert command("queues", "pauses", "--json").json["pauses"] == []


def test_a_tenant_is_weighed_and_called_for_where_none_is_said(
    rowcall: Command, command: Command, standing_dev: Dev
) -> None:
    ran = rowcall("tenants", "weight", TENANT, "2.5", "--address", standing_dev.address)

    assert ran.code == 0, ran.err
    assert f"The tenant {TENANT} has the weight 2.5." in ran.err
    assert command("tenants", "weight", TENANT, "1").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("queues", "show", "nobody"), 1, "NOT_KNOWN"),
        (("queues", "pause", "nobody"), 1, "No shard knows this queue."),
        (("methods", "resume", "acme.v1.Shop/Buy"), 1, "It is written package.Service/Method"),
        (("tenants", "pause", "somebody-else"), 1, "not the caller's tenant"),
        (("tenants", "weight", "somebody-else", "2"), 1, "not the caller's tenant"),
        (("tenants", "pause", "tenants/Acme"), 1, "The name is not that of a tenant: tenants/{tenant}."),
        (("tenants", "weight", TENANT, "1000"), 2, "WEIGHT"),
        (("queues", "pause", "queue", QUEUE), 2, "unexpected extra argument"),
        (("queues", "pause", QUEUE, "--note", "x" * 1001), 1, "note: "),
        (("queues", "pause", ""), 1, "name: "),
    ],
)
def test_what_is_wrong_is_refused_with_what_is_wrong(
    command: Command, arguments: tuple[str, ...], code: int, message: str
) -> None:
    ran = command(*arguments)

    assert ran.code == code, ran.err
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_no_gateway_is_an_exit_code_of_its_own(rowcall: Command) -> None:
    ran = rowcall("queues", "list", "--address", "127.0.0.1:1")

    assert ran.code == 3, ran.err
    assert "No gateway answers at 127.0.0.1:1" in ran.err


def test_every_command_has_help_with_an_example(rowcall: Command) -> None:
    commands = {
        "queues": ("list", "show", "pause", "resume", "pauses"),
        "methods": ("list", "pause", "resume"),
        "image": ("diff", "publish", "rollback", "list"),
        "tenants": ("pause", "resume", "weight"),
    }
    for group, name in ((group, name) for group, names in commands.items() for name in names):
        ran = rowcall(group, name, "--help")
        assert ran.code == 0
        assert re.search(rf"Examples?:\n    rowcall {group} {name} ?", ran.out)


def test_json_is_one_object(command: Command) -> None:
    for arguments in (("list",), ("show", QUEUE), ("pauses",)):
        assert isinstance(json.loads(command("queues", *arguments, "--json").out), dict)


async def test_what_a_shard_that_is_away_has_is_said_to_be_missing(
    rowcall_process: Command, gateways: Gateways, cluster: Cluster
) -> None:
    async with Gate(cluster.gateway.shards["a"]) as gate:
        gateway = await gateways.start(shards={**cluster.gateway.shards, "a": gate.dsn}, connect_timeout="2s")
        client = QueueServiceStub(await gateways.channel(gateway))

        async def known() -> bool:
            return len((await client.ListQueues(ListQueuesRequest(), timeout=20)).queues) == 1

        await until(known)
        await gate.shut()
        listed, paused = [
            await asyncio.to_thread(rowcall_process, "queues", *arguments, "--address", gateway.address)
            for arguments in (("list", "--json"), ("pause", QUEUE))
        ]

    assert (listed.code, listed.json["unreachable_shards"]) == (3, ["a"])
    assert [queue["name"] for queue in listed.json["queues"]] == [QUEUE]
    assert "no answer from a." in listed.err
    assert paused.code == 1
    assert "paused on shard b, and perhaps not on shard a" in paused.err
