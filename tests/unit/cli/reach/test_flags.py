"""The flags by which commands reach a gateway: every command that has an --address has them, and what they say counts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import typer

from rowcall.v1.job_service_pb2 import ListJobsResponse
from rowcall_cli.errors import ExitCode
from rowcall_cli.gateway import default_tenant
from rowcall_cli.main import app
from rowcall_cli.reach.flags import Reach, add_flags, current, reached_by
from tests.fix_channel import SECONDS, FakeGateway
from tests.fix_commands import Ran

FLAGS = (
    "--tls",
    "--tls-ca",
    "--tls-cert",
    "--tls-key",
    "--tls-name",
    "--token-file",
    "--token-over-plaintext",
    "--reason",
)
NAME = "tenants/acme/operations/0199d1f0-0000-7000-8000-000000000000"


def commands(of: typer.Typer, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Callable[..., object]]]:
    """Each command with its words."""
    for command in of.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.rstrip("_").replace("_", "-")
        yield (*before, name), command.callback
    for group in of.registered_groups:
        assert group.typer_instance is not None
        words = () if group.name is None or not isinstance(group.name, str) else (group.name,)
        yield from commands(group.typer_instance, (*before, *words))


REACHING = [words for words, command in commands(app) if "address" in inspect.signature(command).parameters]


def test_there_are_commands_that_reach_a_gateway() -> None:
    assert {("jobs", "list"), ("queues", "pause"), ("tenants", "weight"), ("submit",), ("probe",)} <= set(REACHING)


@pytest.mark.parametrize("words", REACHING, ids=" ".join)
def test_every_command_that_has_an_address_has_them(rowcall: Callable[..., Ran], words: tuple[str, ...]) -> None:
    helped = rowcall(*words, "--help")
    assert helped.code == 0
    assert [flag for flag in FLAGS if f"  {flag} " not in helped.out] == []


def test_a_command_that_reaches_none_has_none(rowcall: Callable[..., Ran]) -> None:
    assert "--token-file" not in rowcall("migrate", "--help").out


def test_no_flag_takes_a_token(rowcall: Callable[..., Ran]) -> None:
    ran = rowcall("queues", "list", "--token", "abc")
    assert ran.code == ExitCode.USAGE
    assert "--token-file" in ran.err


def test_flags_and_environment_say_how(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Reach] = []
    small = typer.Typer()

    @small.command()
    def look(address: str = "x") -> None:
        seen.append(current())

    add_flags(small)
    monkeypatch.setenv("ROWCALL_CLI_TLS_CA", "ca.pem")
    monkeypatch.setenv("ROWCALL_TOKEN_FILE", "token")
    small(["--tls-cert", "c.pem", "--tls-key", "k.pem", "--tls-name", "n"], standalone_mode=False)

    assert seen == [Reach(ca=Path("ca.pem"), cert=Path("c.pem"), key=Path("k.pem"), name="n", token_file=Path("token"))]
    assert current() == Reach(), "it is the command's alone"


@pytest.mark.parametrize("said", [Reach(tls=True), Reach(ca=Path("x")), Reach(cert=Path("x")), Reach(name="x")])
def test_any_word_of_tls_asks_for_it(said: Reach) -> None:
    assert said.secure
    assert not Reach(token_file=Path("x")).secure


@pytest.mark.parametrize(
    ("arguments", "variables", "sent"),
    [
        ((), {}, {"rowcall-tenant": "default"}),
        ((), {"ROWCALL_TOKEN": "abc"}, {}),
        (("--tenant", "default"), {"ROWCALL_TOKEN": "abc"}, {"rowcall-tenant": "default"}),
        ((), {"ROWCALL_TOKEN": "abc", "ROWCALL_TENANT": "acme"}, {"rowcall-tenant": "acme"}),
    ],
)
def test_a_tenant_that_nobody_named_is_left_to_the_credential(
    fake_gateway: FakeGateway, arguments: tuple[str, ...], variables: dict[str, str], sent: dict[str, str]
) -> None:
    """The one that is assumed otherwise would contradict it, and be refused."""
    command = fake_gateway.start("jobs", "list", *arguments, **variables)
    call = fake_gateway.take()
    assert call.metadata == sent
    call.answer(ListJobsResponse())
    assert command.result(SECONDS).code == ExitCode.OK


def test_a_jobs_whole_name_says_its_tenant_whoever_calls(fake_gateway: FakeGateway) -> None:
    command = fake_gateway.start("jobs", "show", NAME, ROWCALL_TOKEN="abc")
    call = fake_gateway.take()
    assert call.metadata == {"rowcall-tenant": "acme"}
    call.fail(grpc.StatusCode.NOT_FOUND)
    command.result(SECONDS)


def test_an_id_alone_needs_a_tenant_where_only_the_credential_says_one(rowcall: Callable[..., Ran]) -> None:
    ran = rowcall("jobs", "show", NAME.rpartition("/")[2], ROWCALL_TOKEN="abc")
    assert ran.code == ExitCode.USAGE
    assert "--tenant NAME" in ran.err


def test_a_certificate_is_a_credential_too() -> None:
    with reached_by(Reach(cert=Path("x"))):
        assert default_tenant() == ""
    assert default_tenant() == "default"
