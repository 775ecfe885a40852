"""What `rowcall serve` is told: what a gateway and a worker are told, by the same names."""

from __future__ import annotations

import pytest

from rowcall.settings import SettingsError, read_settings
from rowcall.settings.flags import flag_name
from rowcall_gateway.settings import GatewaySettings
from rowcall_standalone.settings import ServeSettings
from rowcall_worker.settings import WorkerSettings

BOTH = sorted(GatewaySettings.model_fields.keys() & WorkerSettings.model_fields.keys())
CLUSTER = ("--catalogue", "postgresql://h/catalogue", "--shard", "a=postgresql://h/a")


def test_every_setting_of_theirs_is_one_of_it_and_no_other_is() -> None:
    assert ServeSettings.model_fields.keys() == GatewaySettings.model_fields.keys() | WorkerSettings.model_fields.keys()
    for theirs in (GatewaySettings, WorkerSettings):
        for name, field in theirs.model_fields.items():
            assert flag_name(name, ServeSettings.model_fields[name]) == flag_name(name, field)


@pytest.mark.parametrize("name", BOTH)
def test_what_both_have_means_the_same_where_nothing_is_said(name: str) -> None:
    """Else a system that goes apart would change by it."""
    gateway = read_settings(GatewaySettings, CLUSTER)
    worker = read_settings(WorkerSettings, CLUSTER)
    assert getattr(gateway, name) == getattr(worker, name) == getattr(read_settings(ServeSettings, CLUSTER), name)


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (("--lease", "10ms"), "ROWCALL_LEASE (--lease)"),
        (("--queue", "a", "--queue", "a"), "ROWCALL_QUEUES (--queue)"),
        (("--max-call-wait", "0s"), "ROWCALL_MAX_CALL_WAIT (--max-call-wait)"),
        (("--listen", "0.0.0.0:1"), "ROWCALL_LISTEN (--listen)"),
        (("--max-request-bytes", "999999999999"), "ROWCALL_MAX_REQUEST_BYTES (--max-request-bytes)"),
    ],
)
def test_the_rules_of_both_hold(arguments: tuple[str, ...], where: str) -> None:
    with pytest.raises(SettingsError) as error:
        read_settings(ServeSettings, (*CLUSTER, *arguments))
    assert [problem.where for problem in error.value.problems] == [where]
    assert error.value.program == "rowcall serve"
