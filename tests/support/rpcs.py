"""Every RPC that a gateway serves, from the descriptors, each with a request that is in order.

For tests that hold for every RPC: one that is new is among them at once, and fails until it is said here what a good request of it is
(`REQUESTS`) and which of its fields name something of a tenant (`tests.contract.gateway.edge.test_foreign_names`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.longrunning import operations_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from rowcall.catalogue.images import load_catalogue
from rowcall.options.v1 import access_pb2
from rowcall.options.v1.job_pb2 import job
from rowcall.probe.v1 import probe_pb2
from rowcall.v1 import access_service_pb2 as access
from rowcall.v1 import action_service_pb2 as actions
from rowcall.v1 import admission_service_pb2 as admission
from rowcall.v1 import audit_service_pb2 as audit
from rowcall.v1 import catalogue_service_pb2 as catalogue
from rowcall.v1 import error_service_pb2 as errors
from rowcall.v1 import job_service_pb2 as jobs
from rowcall.v1 import queue_service_pb2 as queues
from rowcall.v1 import tenant_service_pb2 as tenants
from rowcall.v1 import worker_service_pb2 as workers
from rowcall_gateway.edge.rules import OUR_SERVICES
from tests.support.tokens import ISSUER

ECHO = "rowcall.probe.v1.ProbeService/Echo"
PROBE = "rowcall.probe.v1.ProbeService"
NO_JOB = "0199d1f0-0000-7000-8000-000000000000"


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC."""

    name: str
    """"package.Service/Method"."""
    descriptor: MethodDescriptor

    @property
    def short(self) -> str:
        """ "Service/Method"."""
        return self.name.rpartition(".")[2]

    def request(self, **names: str) -> Any:
        """A request that is in order.

        Args:
            names: What is named in it: `operation` (a name that no job has), `tenant` ("acme").
        """
        return REQUESTS[self.short](
            {"operation": f"tenants/{names.get('tenant', 'acme')}/operations/{NO_JOB}", "tenant": "acme", **names}
        )

    def call(
        self, channel: grpc.aio.Channel, request: Message, metadata: tuple[tuple[str, str], ...] = ()
    ) -> grpc.aio.UnaryUnaryCall[Any, bytes]:
        """Makes a call; its answer as bytes."""
        stub: Callable[..., grpc.aio.UnaryUnaryCall[Any, bytes]] = channel.unary_unary(f"/{self.name}")
        if self.name.startswith(PROBE):
            # Nobody works here: the row is all there is to see.
            metadata = (*metadata, ("prefer", "wait=0"))
        return stub(request.SerializeToString(), timeout=20, metadata=metadata)


def _spec(of: Mapping[str, str]) -> jobs.JobSpec:
    request = AnyMessage()
    request.Pack(probe_pb2.EchoRequest(payload=b"x"))
    return jobs.JobSpec(method=ECHO, request=request)


def _selection(of: Mapping[str, str]) -> jobs.JobSelection:
    return jobs.JobSelection(names=[of["operation"]])


def _target() -> admission.BoundTarget:
    return admission.BoundTarget(queue="nobodys")


def _hello_image() -> bytes:
    """An image with one method, which anybody with the role caller may call."""
    file = FileDescriptorProto(name="hello/v1/hello.proto", package="hello.v1", syntax="proto3")
    file.dependency.extend(["rowcall/options/v1/access.proto", "rowcall/options/v1/job.proto"])
    file.message_type.add(name="HelloRequest")
    file.message_type.add(name="HelloResponse")
    method = file.service.add(name="HelloService").method.add(
        name="Hello", input_type=".hello.v1.HelloRequest", output_type=".hello.v1.HelloResponse"
    )
    method.options.Extensions[job].SetInParent()
    method.options.Extensions[access_pb2.access].roles.append("caller")
    return FileDescriptorSet(file=[file]).SerializeToString()


HELLO_IMAGE = _hello_image()

Make = Callable[[Mapping[str, str]], Message]
REQUESTS: Mapping[str, Make] = {
    "AccessService/RevokeCredentials": lambda of: access.RevokeCredentialsRequest(issuer=ISSUER, subject="nobody"),
    "AccessService/ListRevocations": lambda of: access.ListRevocationsRequest(),
    "ActionService/GetAction": lambda of: actions.GetActionRequest(operation=of["operation"]),
    "ActionService/ListActions": lambda of: actions.ListActionsRequest(),
    "ActionService/GetSpend": lambda of: actions.GetSpendRequest(operation=of["operation"]),
    "AdmissionService/ListBounds": lambda of: admission.ListBoundsRequest(),
    "AdmissionService/GetBound": lambda of: admission.GetBoundRequest(target=_target()),
    "AdmissionService/SetBound": lambda of: admission.SetBoundRequest(
        bound=admission.Bound(target=_target(), in_flight=1_000_000)
    ),
    "AdmissionService/DeleteBound": lambda of: admission.DeleteBoundRequest(target=_target()),
    "AuditService/ListAuditEntries": lambda of: audit.ListAuditEntriesRequest(chain=f"tenants/{of['tenant']}"),
    "AuditService/ListAuditHeads": lambda of: audit.ListAuditHeadsRequest(chain=f"tenants/{of['tenant']}"),
    "AuditService/VerifyAuditChain": lambda of: audit.VerifyAuditChainRequest(chain=f"tenants/{of['tenant']}"),
    "CatalogueService/ListMethods": lambda of: catalogue.ListMethodsRequest(),
    "CatalogueService/ListImages": lambda of: catalogue.ListImagesRequest(),
    "CatalogueService/ListGateways": lambda of: catalogue.ListGatewaysRequest(),
    "CatalogueService/PublishImage": lambda of: catalogue.PublishImageRequest(
        name="hello", content=HELLO_IMAGE, validate_only=True
    ),
    "CatalogueService/RollbackImage": lambda of: catalogue.RollbackImageRequest(name="never-published"),
    "CatalogueService/PauseMethod": lambda of: catalogue.PauseMethodRequest(name=ECHO),
    "CatalogueService/ResumeMethod": lambda of: catalogue.ResumeMethodRequest(name=ECHO),
    "ErrorService/ListIncidents": lambda of: errors.ListIncidentsRequest(),
    "ErrorService/GetIncident": lambda of: errors.GetIncidentRequest(fingerprint="0" * 32),
    "ErrorService/ResolveIncident": lambda of: errors.ResolveIncidentRequest(fingerprint="0" * 32),
    "JobService/Submit": lambda of: jobs.SubmitRequest(job=_spec(of)),
    "JobService/BatchSubmit": lambda of: jobs.BatchSubmitRequest(jobs=[_spec(of)]),
    "JobService/GetJob": lambda of: jobs.GetJobRequest(name=of["operation"], view=jobs.JOB_VIEW_FULL),
    "JobService/ListJobs": lambda of: jobs.ListJobsRequest(view=jobs.JOB_VIEW_FULL),
    "JobService/CancelJob": lambda of: jobs.CancelJobRequest(name=of["operation"]),
    "JobService/RetryJob": lambda of: jobs.RetryJobRequest(name=of["operation"]),
    "JobService/ResolveJob": lambda of: jobs.ResolveJobRequest(name=of["operation"]),
    "JobService/BatchCancelJobs": lambda of: jobs.BatchCancelJobsRequest(selection=_selection(of)),
    "JobService/BatchRetryJobs": lambda of: jobs.BatchRetryJobsRequest(selection=_selection(of)),
    "JobService/BatchResolveJobs": lambda of: jobs.BatchResolveJobsRequest(selection=_selection(of)),
    "JobService/ListFailureGroups": lambda of: jobs.ListFailureGroupsRequest(),
    "Operations/ListOperations": lambda of: operations_pb2.ListOperationsRequest(),
    "Operations/GetOperation": lambda of: operations_pb2.GetOperationRequest(name=of["operation"]),
    "Operations/DeleteOperation": lambda of: operations_pb2.DeleteOperationRequest(name=of["operation"]),
    "Operations/CancelOperation": lambda of: operations_pb2.CancelOperationRequest(name=of["operation"]),
    "Operations/WaitOperation": lambda of: operations_pb2.WaitOperationRequest(
        name=of["operation"], timeout=Duration()
    ),
    "QueueService/ListQueues": lambda of: queues.ListQueuesRequest(),
    "QueueService/ListQueueActivity": lambda of: queues.ListQueueActivityRequest(),
    "QueueService/GetQueue": lambda of: queues.GetQueueRequest(name="probe"),
    "QueueService/PauseQueue": lambda of: queues.PauseQueueRequest(name="probe"),
    "QueueService/ResumeQueue": lambda of: queues.ResumeQueueRequest(name="probe"),
    "QueueService/ListPauses": lambda of: queues.ListPausesRequest(),
    "TenantService/PauseTenant": lambda of: tenants.PauseTenantRequest(name=f"tenants/{of['tenant']}"),
    "TenantService/ResumeTenant": lambda of: tenants.ResumeTenantRequest(name=f"tenants/{of['tenant']}"),
    "TenantService/GetTenant": lambda of: tenants.GetTenantRequest(name=f"tenants/{of['tenant']}"),
    "TenantService/ListTenantFailures": lambda of: tenants.ListTenantFailuresRequest(),
    "TenantService/ListTenants": lambda of: tenants.ListTenantsRequest(),
    "TenantService/ExportTenant": lambda of: tenants.ExportTenantRequest(
        name=f"tenants/{of['tenant']}", without_payloads=True
    ),
    "TenantService/EraseTenant": lambda of: tenants.EraseTenantRequest(
        name=f"tenants/{of['tenant']}", validate_only=True
    ),
    "TenantService/ReopenTenant": lambda of: tenants.ReopenTenantRequest(name=f"tenants/{of['tenant']}"),
    "TenantService/SetTenantWeight": lambda of: tenants.SetTenantWeightRequest(
        name=f"tenants/{of['tenant']}", weight=2
    ),
    "WorkerService/ListWorkers": lambda of: workers.ListWorkersRequest(),
    "WorkerService/GetWorker": lambda of: workers.GetWorkerRequest(name="nobody"),
    "ProbeService/Echo": lambda of: probe_pb2.EchoRequest(payload=b"x"),
    "ProbeService/Run": lambda of: probe_pb2.RunRequest(payload=b"x"),
    "ProbeService/Await": lambda of: probe_pb2.AwaitRequest(payload=b"x"),
}
"""A good request of each, by "Service/Method"."""


def _every() -> Iterator[Rpc]:
    pool = load_catalogue().pool
    for service in (*OUR_SERVICES, PROBE):
        for method in pool.FindServiceByName(service).methods:
            yield Rpc(f"{service}/{method.name}", method)


EVERY = tuple(sorted(_every(), key=lambda rpc: rpc.name))
"""All of them."""
