"""`rowcall dev --identity jwt` and `rowcall token`: trying credentials out costs a minute."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc

from rowcall.errors import read_envelope, status_of
from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc
from rowcall_standalone.issuing.issuer import open_issuer
from tests.fix_commands import Ran
from tests.fix_dev import CHANNEL_OPTIONS, Dev
from tests.support.pages import call_with_a_token

Start = Callable[..., Dev]
Rowcall = Callable[..., Ran]


def call(address: str, *metadata: tuple[str, str]) -> str:
    """One Echo; the reason it was refused for, or the tenant of its job."""
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        try:
            _, ended = probe_pb2_grpc.ProbeServiceStub(channel).Echo.with_call(
                probe_pb2.EchoRequest(payload=b"a"), timeout=20, metadata=metadata or None
            )
        except grpc.RpcError as error:
            info = read_envelope(status_of(error))
            return "none" if info is None else info.reason
        name = str(dict(ended.trailing_metadata() or ())["rowcall-operation"])
        return name.split("/")[1]


def test_a_token_of_its_own_issuer_is_taken_and_nothing_else(dev: Start, rowcall: Rowcall) -> None:
    served = dev("--identity", "jwt")
    assert "rowcall token --tenant acme" in served.running.says("callers need a token")
    at = ("--data-dir", str(served.data_dir))

    def token(*arguments: str) -> tuple[str, str]:
        ran = rowcall("token", *arguments, *at)
        assert (ran.code, ran.err) == (0, "")
        return ("authorization", f"Bearer {ran.out.strip()}")

    assert call(served.address) == "CREDENTIALS_REQUIRED"
    assert call(served.address, token("--tenant", "acme")) == "acme"
    for page in ("README.md", "docs/identity.md"):
        bearer = token("--tenant", "bolt")[1].removeprefix("Bearer ")
        said = call_with_a_token(page, served.address, bearer, cwd=served.data_dir)
        assert '"payload": "aGVsbG8="' in said
    assert call(served.address, token("--tenant", "acme"), ("rowcall-tenant", "bolt")) == "IDENTITY_MISMATCH"
    admin = token("--role", "admin", "--role", "caller", "--actor", "root")
    assert call(served.address, admin) == "TENANT_REQUIRED"

    issuer = served.data_dir / "issuer"
    assert stat.S_IMODE((issuer / "key.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(issuer.stat().st_mode) == 0o700
    assert '"d"' not in (issuer / "keys.json").read_text(), "what is published is the public key"

    told = rowcall("token", "--tenant", "acme", "--scope", "a", "--scope", "b", "--ttl", "5m", "--json", *at).json
    assert (told["tenant"], told["roles"], told["scopes"]) == ("acme", ["caller"], ["a", "b"])
    with grpc.insecure_channel(served.address, options=CHANNEL_OPTIONS) as channel:
        listed = operations_pb2_grpc.OperationsStub(channel).ListOperations(
            operations_pb2.ListOperationsRequest(name="tenants/acme"), timeout=20, metadata=(admin,)
        )
    assert len(listed.operations) == 1


def test_the_issuer_is_kept_and_another_directorys_is_another(dev_dir: Path, tmp_path: Path, rowcall: Rowcall) -> None:
    first, again, other = open_issuer(tmp_path / "a"), open_issuer(tmp_path / "a"), open_issuer(tmp_path / "b")
    assert (first.name, first.key.as_dict()) == (again.name, again.key.as_dict())
    assert first.name != other.name
    settings = json.loads(first.settings.read_text())
    assert settings["issuer"][0]["issuer"] == first.name


def test_without_an_issuer_it_is_said_how_to_get_one(tmp_path: Path, rowcall: Rowcall) -> None:
    ran = rowcall("token", "--tenant", "acme", "--data-dir", str(tmp_path))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        f"rowcall: {tmp_path} has no development issuer. Start one first: rowcall dev --identity jwt --data-dir {tmp_path}\n"
    )
    (tmp_path / "issuer").mkdir()
    (tmp_path / "issuer" / "key.json").write_text("{")
    ran = rowcall("token", "--tenant", "acme", "--data-dir", str(tmp_path))
    assert ran.code == 1
    assert "is broken. Remove that directory" in ran.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "only an admin's token can go without"),
        (("--tenant", "Acme"), "'Acme' is not the name of a tenant"),
        (("--tenant", "acme", "--role", "boss"), "'boss' is no role; there are admin, caller"),
        (("--tenant", "acme", "--ttl", "31d"), "'31d' is not from 1s to 30d"),
        (("--tenant", "acme", "--ttl", "soon"), "is not a duration"),
        (("--tenant", "acme", "--scope", "a b"), "'a b' is no word"),
        (("--tenant", "acme", "--actor", ""), "is not 1 to 255 printable characters"),
    ],
)
def test_what_a_token_cannot_say_is_refused(rowcall: Rowcall, arguments: tuple[str, ...], told: str) -> None:
    ran = rowcall("token", *arguments, COLUMNS="400")
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
