"""Environment variables that begin with ROWCALL_: every name of ours is accepted by all, every other refused."""

from __future__ import annotations

import pytest

from rowcall.settings import ClusterSettings, LogSettings
from rowcall.settings.flags import environment_name
from rowcall.settings.model import Settings
from rowcall.settings.names import NEIGHBOURS, known_names, nearest, unknown_names
from rowcall_gateway.settings import GatewaySettings
from rowcall_worker.settings import WorkerSettings


def own_names(settings: type[Settings]) -> set[str]:
    return {environment_name(field) for field in settings.model_fields.keys() - ClusterSettings.model_fields.keys()}


@pytest.mark.parametrize("settings", [GatewaySettings, WorkerSettings])
def test_neighbours_that_are_not_installed_know_every_name(settings: type[ClusterSettings]) -> None:
    # A gateway's image has no worker in it, and must not take the worker's variables for typos.
    assert own_names(settings) == NEIGHBOURS[settings.program], (
        f"put the variables of {settings.__name__} into rowcall.settings.names.NEIGHBOURS"
    )


def test_a_class_declares_its_names_when_it_is_defined() -> None:
    class NewSettings(LogSettings):
        """Of a program that no table knows."""

        wonderful_knob: int = 1

    assert NewSettings(wonderful_knob=2).wonderful_knob == 2
    assert not unknown_names({"ROWCALL_WONDERFUL_KNOB": "2"})


def test_a_name_of_nobody_is_unknown_whatever_its_case() -> None:
    environment = {"ROWCALL_CATALOG": "x", "rowcall_catalogue": "x", "Rowcall_Shrads": "x", "PATH": "x", "ROW": "x"}
    assert unknown_names(environment) == ["ROWCALL_CATALOG", "Rowcall_Shrads"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROWCALL_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("ROWCALL_GATEWAY_SERVICE_PORT", "50051"),
        ("ROWCALL_GATEWAY_SERVICE_PORT_GRPC", "50051"),
        ("ROWCALL_GATEWAY_PORT", "tcp://10.0.0.1:50051"),
        ("ROWCALL_GATEWAY_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
        ("ROWCALL_GATEWAY_PORT_50051_TCP_PROTO", "tcp"),
        ("ROWCALL_GATEWAY_PORT_50051_TCP_PORT", "50051"),
        ("ROWCALL_GATEWAY_PORT_50051_TCP_ADDR", "fd00::1"),
        ("ROWCALL_PORT", "udp://10.0.0.1:5000"),
    ],
)
def test_what_kubernetes_makes_for_services_is_left_alone(name: str, value: str) -> None:
    assert not unknown_names({name: value})


@pytest.mark.parametrize(("name", "value"), [("ROWCALL_PORT", "50051"), ("ROWCALL_GATEWAY_PORT", "50051")])
def test_a_port_that_a_person_set_is_refused(name: str, value: str) -> None:
    assert unknown_names({name: value}) == [name]


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("ROWCALL_CATALOG", "ROWCALL_CATALOGUE"),
        ("ROWCALL_SHARD", "ROWCALL_SHARDS"),
        ("ROWCALL_LOGLEVEL", "ROWCALL_LOG_LEVEL"),
        ("ROWCALL_POOLS_READ", "ROWCALL_POOL_READ"),
        ("ROWCALL_QQQQQQQQQQQQ", None),
    ],
)
def test_the_nearest_name_is_offered(typo: str, meant: str | None) -> None:
    assert nearest(typo, known_names()) == meant
