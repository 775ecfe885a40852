"""What a worker takes from add_XServicer_to_server, what it refuses, and what it serves of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_health.v1 import health, health_pb2_grpc

from rowcall.catalogue.images import load_catalogue
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceServicer, add_ProbeServiceServicer_to_server
from rowcall_worker import RegistrationError, Worker, WorkerSettings
from rowcall_worker.probe import ProbeServicer
from rowcall_worker.serving.descriptors import image_of
from rowcall_worker.serving.handlers import Registry

PROBE = "rowcall.probe.v1.ProbeService"
CATALOGUE = load_catalogue().methods


@pytest.fixture
def worker() -> Worker:
    """A worker that is not started."""
    return Worker(WorkerSettings(catalogue="postgresql:///none", shards={"a": "postgresql:///none_a"}))


def echo(request: EchoRequest, context: object) -> EchoResponse:
    return EchoResponse(payload=request.payload)


HANDLER: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
    echo, EchoRequest.FromString, EchoResponse.SerializeToString
)


def test_generated_code_registers_a_servicer(worker: Worker) -> None:
    add_ProbeServiceServicer_to_server(ProbeServicer("w"), worker)
    with pytest.raises(RegistrationError, match=r"rowcall\.probe\.v1\.ProbeService/Echo is registered twice"):
        add_ProbeServiceServicer_to_server(ProbeServicer("w"), worker)


def test_async_and_sync_handlers_are_told_apart() -> None:
    class Mixed(ProbeServiceServicer):
        async def Echo(self, request: EchoRequest, context: Any) -> EchoResponse:  # noqa: N802  the proto names it
            return EchoResponse()

        def Run(self, request: Any, context: Any) -> Any:  # noqa: N802
            return None

        Await = Run

    registry = Registry()

    class Server:
        """As much of a server as generated code calls."""

        def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
            registry.add_generic(handlers)

        def add_registered_method_handlers(self, name: str, handlers: Mapping[str, Any]) -> None:
            registry.add_registered(name, handlers)

    add_ProbeServiceServicer_to_server(Mixed(), Server())  # type: ignore[arg-type]
    served = registry.resolve(CATALOGUE).methods
    assert {name: method.is_async for name, method in served.items()} == {
        f"{PROBE}/Echo": True,
        f"{PROBE}/Run": False,
        f"{PROBE}/Await": False,
    }
    run = served[f"{PROBE}/Run"]
    assert (run.returns_operation, run.response_type) == (True, "rowcall.probe.v1.RunResponse")


@pytest.mark.parametrize(
    "handler",
    [
        grpc.unary_stream_rpc_method_handler(lambda request, context: iter(())),
        grpc.stream_unary_rpc_method_handler(lambda requests, context: None),
        grpc.stream_stream_rpc_method_handler(lambda requests, context: iter(())),
    ],
)
def test_a_method_that_streams_is_refused(worker: Worker, handler: grpc.RpcMethodHandler[Any, Any]) -> None:
    with pytest.raises(RegistrationError, match=r"acme\.Service/Stream streams"):
        worker.add_registered_method_handlers("acme.Service", {"Unary": HANDLER, "Stream": handler})
    # Nothing of the service was taken.
    worker.add_registered_method_handlers("acme.Service", {"Unary": HANDLER})


def test_a_service_of_the_stock_health_package_is_refused_because_it_streams(worker: Worker) -> None:
    with pytest.raises(RegistrationError, match=r"grpc\.health\.v1\.Health/Watch streams"):
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), worker)


def test_a_service_without_a_job_type_is_refused() -> None:
    registry = Registry()
    registry.add_registered("acme.Service", {"Plain": HANDLER})
    with pytest.raises(RegistrationError, match=r"no method of acme\.Service is a job type.*--image"):
        registry.resolve(CATALOGUE)


def test_methods_that_are_no_job_types_are_named_and_left_out() -> None:
    registry = Registry()
    registry.add_registered(PROBE, {"Echo": HANDLER, "Plain": HANDLER})
    served = registry.resolve(CATALOGUE)
    assert list(served.methods) == [f"{PROBE}/Echo"]
    assert served.ignored == (f"{PROBE}/Plain",)


def test_a_generic_handler_serves_what_nothing_else_does() -> None:
    class Generic(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
            return HANDLER if handler_call_details.method == f"/{PROBE}/Echo" else None

    registry = Registry()
    registry.add_generic([Generic()])
    assert list(registry.resolve(CATALOGUE).methods) == [f"{PROBE}/Echo"]


def test_a_handler_without_serializers_is_refused() -> None:
    registry = Registry()
    registry.add_registered(PROBE, {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
    with pytest.raises(RegistrationError, match="without behaviour, request deserializer or response serializer"):
        registry.resolve(CATALOGUE)


def test_a_worker_has_no_port(worker: Worker) -> None:
    with pytest.raises(RegistrationError, match="no port"):
        worker.add_insecure_port("127.0.0.1:0")
    with pytest.raises(RegistrationError, match="no port"):
        worker.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(b"", b"")]))


def test_descriptors_of_generated_code_make_an_image() -> None:
    image = image_of([PROBE, "no.such.Service"])
    assert image is not None
    names = [file.name for file in FileDescriptorSet.FromString(image).file]
    assert names[-1] == "rowcall/probe/v1/probe.proto"
    assert "rowcall/options/v1/job.proto" in names
    assert len(names) == len(set(names))
    assert set(load_catalogue([image], builtin=False).methods) == set(CATALOGUE)
    assert image_of(["no.such.Service"]) is None
