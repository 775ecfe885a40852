"""Where the operations port is, as it is written."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rowcall.address import Address
from rowcall.ops.settings import OpsSettings
from rowcall_gateway.settings import GatewaySettings
from rowcall_worker import WorkerSettings
from rowcall_worker.settings import settings_apart

CLUSTER: dict[str, Any] = {"catalogue": "postgresql:///c", "shards": {"a": "postgresql:///a"}}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (None, None),
        ("9464", Address("127.0.0.1", 9464)),
        ("0", Address("127.0.0.1", 0)),
        ("0.0.0.0:9464", Address("0.0.0.0", 9464)),
        ("[::1]:9464", Address("::1", 9464)),
    ],
)
def test_an_address_or_a_port_alone(text: str | None, address: Address | None) -> None:
    assert OpsSettings(ops_listen=text).ops_address() == address


@pytest.mark.parametrize(
    "text", ["", "nowhere", "host:", ":9464", "::1:9464", "127.0.0.1:70000", "70000", "9464/metrics"]
)
def test_what_is_neither_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(ValidationError, match="or a port alone, for example 9464"):
        OpsSettings(ops_listen=text)


def test_each_of_several_processes_has_the_next_port() -> None:
    settings = OpsSettings(ops_listen="65534")
    assert [settings.ops_address(number) for number in (1, 2)] == [
        Address("127.0.0.1", port) for port in (65534, 65535)
    ]
    with pytest.raises(OSError, match="process 3 would have port 65536; ports end at 65535"):
        settings.ops_address(3)
    assert OpsSettings(ops_listen="0").ops_address(3) == Address("127.0.0.1", 0)


def test_it_is_not_the_port_that_callers_have() -> None:
    with pytest.raises(ValidationError, match="is the address of ROWCALL_OPS_LISTEN"):
        GatewaySettings(**CLUSTER, listen="127.0.0.1:50051", ops_listen="127.0.0.1:50051")


def test_the_process_for_suspects_has_none() -> None:
    """Its worker has it, and tells of the shard."""
    assert settings_apart(WorkerSettings(**CLUSTER, ops_listen="9464"), "a").ops_address() is None
