"""What the interceptor must know of each served method: how large, whether it writes, what it takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rowcall.catalogue.images import Catalogue
from rowcall_gateway.edge.interceptor import MethodRules

JOB_SERVICE: Final = "rowcall.v1.JobService"
OPERATIONS: Final = "google.longrunning.Operations"
ACCESS_SERVICE: Final = "rowcall.v1.AccessService"
ACTION_SERVICE: Final = "rowcall.v1.ActionService"
ADMISSION_SERVICE: Final = "rowcall.v1.AdmissionService"
AUDIT_SERVICE: Final = "rowcall.v1.AuditService"
CATALOGUE_SERVICE: Final = "rowcall.v1.CatalogueService"
ERROR_SERVICE: Final = "rowcall.v1.ErrorService"
WORKER_SERVICE: Final = "rowcall.v1.WorkerService"
OUR_SERVICES: Final = (
    JOB_SERVICE,
    OPERATIONS,
    ACCESS_SERVICE,
    ACTION_SERVICE,
    ADMISSION_SERVICE,
    AUDIT_SERVICE,
    CATALOGUE_SERVICE,
    ERROR_SERVICE,
    "rowcall.v1.QueueService",
    "rowcall.v1.TenantService",
    WORKER_SERVICE,
)
"""The services that every gateway serves, beside the catalogue's."""

_OF_NO_TENANT: Final = frozenset(
    {
        OPERATIONS,
        ACCESS_SERVICE,
        ACTION_SERVICE,
        ADMISSION_SERVICE,
        AUDIT_SERVICE,
        CATALOGUE_SERVICE,
        ERROR_SERVICE,
        WORKER_SERVICE,
    }
    | {
        f"rowcall.v1.QueueService/{name}"
        for name in ("ListQueues", "GetQueue", "ListQueueActivity", "PauseQueue", "ResumeQueue")
    }
    | {"rowcall.v1.TenantService/ListTenants", "rowcall.v1.TenantService/ListTenantFailures"}
)
"""Services and methods that an admin need not name a tenant for: an operation's name or a chain's does, or nothing of it is a tenant's."""

_SUBMITTING: Final = frozenset({f"{JOB_SERVICE}/Submit", f"{JOB_SERVICE}/BatchSubmit"})
_LARGE: Final = _SUBMITTING | {f"{CATALOGUE_SERVICE}/PublishImage"}


def method_paths(catalogue: Catalogue, services: Iterable[str]) -> list[str]:
    """The paths of the methods of services that the catalogue's pool has."""
    return [
        f"/{service}/{method.name}"
        for service in services
        for method in catalogue.pool.FindServiceByName(service).methods
    ]


class Rules:
    """The rules of every method of one catalogue."""

    def __init__(self, catalogue: Catalogue, *, max_request_bytes: int, max_batch_bytes: int) -> None:
        """
        Args:
            catalogue: What is served.
            max_request_bytes: The largest request of a method.
            max_batch_bytes: The largest one of those that bring many calls, or an image.
        """
        self._limit = max_request_bytes
        self._rules = {
            method.path: MethodRules(limit_bytes=self._limit, writes=True, request_type=method.request_type)
            for method in catalogue.methods.values()
        }
        for service in OUR_SERVICES:
            for method in catalogue.pool.FindServiceByName(service).methods:
                name = f"{service}/{method.name}"
                self._rules[f"/{name}"] = MethodRules(
                    limit_bytes=max_batch_bytes if name in _LARGE else self._limit,
                    writes=name in _SUBMITTING,
                    request_type=method.input_type.full_name,
                    of_tenant=_OF_NO_TENANT.isdisjoint({service, name}),
                )

    def of(self, path: str) -> MethodRules:
        """The rules of a method by its path, served or not."""
        return self._rules.get(path) or MethodRules(limit_bytes=self._limit, writes=False, request_type="")
