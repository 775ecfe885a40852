"""The rules of our own services: every service of the contract has them, and keeps to how requests name things."""

from __future__ import annotations

import re

import pytest
from google.protobuf.descriptor import MethodDescriptor

from rowcall.catalogue.images import load_catalogue
from rowcall_gateway.edge.rules import OPERATIONS, OUR_SERVICES, Rules
from tests.support.places import ROOT

PROTOS = sorted((ROOT / "protos/rowcall/v1").glob("*.proto"))
SERVICES = {
    f"rowcall.v1.{name}"
    for proto in PROTOS
    for name in re.findall(r"^service (\w+) ", proto.read_text(), flags=re.MULTILINE)
}
CATALOGUE = load_catalogue()


def methods() -> list[MethodDescriptor]:
    """Every RPC of rowcall.v1."""
    return [method for name in sorted(SERVICES) for method in CATALOGUE.pool.FindServiceByName(name).methods]


def test_every_service_of_the_contract_is_served() -> None:
    assert {*SERVICES, OPERATIONS} == set(OUR_SERVICES)


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.full_name)
def test_every_rpc_has_rules(method: MethodDescriptor) -> None:
    rules = Rules(CATALOGUE, max_request_bytes=1, max_batch_bytes=2)
    service, _, name = method.full_name.rpartition(".")

    found = rules.of(f"/{service}/{name}")
    submits = name in {"Submit", "BatchSubmit"}
    assert (found.request_type, found.writes, found.limit_bytes) == (
        method.input_type.full_name,
        submits,
        2 if submits or name == "PublishImage" else 1,
    )


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.full_name)
def test_a_request_names_its_tenant_in_name_or_parent_alone(method: MethodDescriptor) -> None:
    assert "tenant" not in method.input_type.fields_by_name


def test_calls_are_of_a_tenant_but_where_nothing_of_them_is_one_tenants() -> None:
    rules = Rules(CATALOGUE, max_request_bytes=1, max_batch_bytes=2)
    free = {
        name
        for service in OUR_SERVICES
        for method in CATALOGUE.pool.FindServiceByName(service).methods
        if not rules.of(f"/{(name := f'{service}/{method.name}')}").of_tenant
    }
    assert {name.partition("/")[2] for name in free if name.startswith(f"{OPERATIONS}/")} == {
        method.name for method in CATALOGUE.pool.FindServiceByName(OPERATIONS).methods
    }, "the name says the tenant"
    assert {name for name in free if not name.startswith(f"{OPERATIONS}/")} == {
        "rowcall.v1.AccessService/ListRevocations",
        "rowcall.v1.AccessService/RevokeCredentials",
        "rowcall.v1.ActionService/GetAction",
        "rowcall.v1.ActionService/GetSpend",
        "rowcall.v1.ActionService/ListActions",
        "rowcall.v1.AdmissionService/DeleteBound",
        "rowcall.v1.AdmissionService/GetBound",
        "rowcall.v1.AdmissionService/ListBounds",
        "rowcall.v1.AdmissionService/SetBound",
        "rowcall.v1.AuditService/ListAuditEntries",
        "rowcall.v1.AuditService/ListAuditHeads",
        "rowcall.v1.AuditService/VerifyAuditChain",
        "rowcall.v1.ErrorService/GetIncident",
        "rowcall.v1.ErrorService/ListIncidents",
        "rowcall.v1.ErrorService/ResolveIncident",
        "rowcall.v1.CatalogueService/ListImages",
        "rowcall.v1.CatalogueService/ListMethods",
        "rowcall.v1.CatalogueService/ListGateways",
        "rowcall.v1.CatalogueService/PauseMethod",
        "rowcall.v1.CatalogueService/PublishImage",
        "rowcall.v1.CatalogueService/ResumeMethod",
        "rowcall.v1.CatalogueService/RollbackImage",
        "rowcall.v1.QueueService/GetQueue",
        "rowcall.v1.QueueService/ListQueueActivity",
        "rowcall.v1.QueueService/ListQueues",
        "rowcall.v1.QueueService/PauseQueue",
        "rowcall.v1.QueueService/ResumeQueue",
        "rowcall.v1.TenantService/ListTenantFailures",
        "rowcall.v1.TenantService/ListTenants",
        "rowcall.v1.WorkerService/GetWorker",
        "rowcall.v1.WorkerService/ListWorkers",
    }
    assert rules.of("/no.Such/Method").of_tenant
