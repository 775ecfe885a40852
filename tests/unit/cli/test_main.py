"""The `rowcall` command as a whole: variables that nobody reads are refused before anything is done."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rowcall.v1.job_service_pb2 import ListJobsResponse
from rowcall_cli.errors import ExitCode
from tests.fix_channel import SECONDS, FakeGateway
from tests.fix_commands import Ran

ECHO = "rowcall.probe.v1.ProbeService/Echo"


@pytest.mark.parametrize(
    "words",
    [
        ("jobs", "list"),
        ("jobs", "show", "0199d1f0-0000-7000-8000-000000000000"),
        ("queues", "pause", "tenant", "acme"),
        ("submit", ECHO),
        ("probe",),
        ("dev", "--data-dir", "/dev/null/data", "--listen", "127.0.0.1:0"),
        ("demo", "--data-dir", "/dev/null/data"),
    ],
)
def test_a_misspelt_variable_is_refused_by_every_command(fake_gateway: FakeGateway, words: tuple[str, ...]) -> None:
    command = fake_gateway.start(*words, ROWCALL_TENNANT="acme", ROWCALL_ADRESS="gateway.example:50051")
    assert fake_gateway.next_call() is None
    ran = command.result(SECONDS)
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert ran.err.splitlines() == [
        "rowcall: ROWCALL_ADRESS is not a setting of ours. Did you mean ROWCALL_ADDRESS?",
        "ROWCALL_TENNANT is not a setting of ours. Did you mean ROWCALL_TENANT?",
    ]


def test_migrate_tells_of_it_with_everything_else_that_is_wrong(rowcall: Callable[..., Ran]) -> None:
    ran = rowcall("migrate", ROWCALL_CATALOG="postgresql://db.example/c", ROWCALL_SHARDS="{")
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert "ROWCALL_CATALOG is not a setting of ours. Did you mean ROWCALL_CATALOGUE?" in ran.err
    assert "ROWCALL_SHARDS (--shard) is not JSON" in ran.err


def test_the_services_variables_and_kubernetes_own_are_no_typos(fake_gateway: FakeGateway) -> None:
    variables = {
        "ROWCALL_TENANT": "acme",
        "ROWCALL_SLOTS": "4",
        "ROWCALL_MAX_WAITERS": "9",
        "ROWCALL_PASSWORD": "secret",
        "ROWCALL_GATEWAY_SERVICE_HOST": "10.0.0.1",
        "ROWCALL_GATEWAY_PORT": "tcp://10.0.0.1:50051",
    }
    command = fake_gateway.start("jobs", "list", **variables)
    call = fake_gateway.take()
    assert call.metadata == {"rowcall-tenant": "acme"}
    call.answer(ListJobsResponse())
    assert command.result(SECONDS).code == ExitCode.OK


@pytest.mark.parametrize("words", [(), ("--help",), ("jobs", "show", "--help"), ("--version",)])
def test_help_is_given_all_the_same(rowcall: Callable[..., Ran], words: tuple[str, ...]) -> None:
    ran = rowcall(*words, ROWCALL_ADRESS="gateway.example:50051")
    assert "is not a setting of ours" not in ran.err
    assert "rowcall" in ran.out + ran.err
