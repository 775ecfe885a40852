"""Fixtures: the `rowcall` command on a channel that leads nowhere, where the test plays the gateway (grpc_testing)."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import grpc
import grpc_testing
import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.rpc.status_pb2 import Status
from grpc_reflection.v1alpha import reflection_pb2

from rowcall.errors import trailers
from rowcall.probe.v1 import probe_pb2
from rowcall.v1 import (
    access_service_pb2,
    action_service_pb2,
    admission_service_pb2,
    audit_service_pb2,
    catalogue_service_pb2,
    error_service_pb2,
    job_service_pb2,
    queue_service_pb2,
    tenant_service_pb2,
    worker_service_pb2,
)
from tests.fix_commands import Ran

SECONDS = 20.0
"""How long a test waits for a command's next call, or for its end."""

# Stubs of ours and grpcio-reflection's do not agree on what a descriptor is.
FILES: Sequence[Any] = [
    each.DESCRIPTOR
    for each in (
        access_service_pb2,
        action_service_pb2,
        admission_service_pb2,
        audit_service_pb2,
        catalogue_service_pb2,
        error_service_pb2,
        job_service_pb2,
        queue_service_pb2,
        tenant_service_pb2,
        worker_service_pb2,
        probe_pb2,
        reflection_pb2,
    )
]
SERVICES: Sequence[ServiceDescriptor] = [service for file in FILES for service in file.services_by_name.values()]
METHODS: Mapping[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods
}


@dataclass(slots=True)
class Call:
    """A call that a command makes and waits for."""

    method: str
    """"Service/Method", without the package."""
    metadata: Mapping[str, str | bytes]
    """What was sent with it."""
    request: Any
    """The message; of a stream, the first."""
    timeout: float | None
    """Seconds that the command gave it; None: for ever."""
    rpc: Any
    """grpc_testing's end of it."""
    streams: bool = False
    """Whether it is a stream both ways, as reflection is."""
    ended: bool = False
    """Whether the command has got, or is about to get, its outcome."""

    def answer(self, response: Any) -> None:
        """Ends it with a response."""
        if self.streams:
            self.rpc.send_response(response)
        self._end(grpc.StatusCode.OK, "", (), response)

    def fail(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Iterable[tuple[str, str | bytes]] = ()
    ) -> None:
        """Ends it with an error."""
        self._end(code, details, trailing_metadata)

    def refuse(self, status: Status) -> None:
        """Ends it with an error as a gateway sends it: the Status in the trailers beside code and message."""
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        self._end(code, status.message, trailers(status))

    def time_over(self) -> None:
        """Ends it as gRPC does when its deadline is over, if it has not ended."""
        if not self.ended:
            self._end(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ())

    def _end(
        self,
        code: grpc.StatusCode,
        details: str,
        trailing_metadata: Iterable[tuple[str, str | bytes]],
        response: Any = None,
    ) -> None:
        self.ended = True
        if self.streams:
            self.rpc.terminate(tuple(trailing_metadata), code, details)
        else:
            self.rpc.terminate(response, tuple(trailing_metadata), code, details)


class _Channel(grpc.Channel):
    """grpc_testing's channel, which ignores deadlines and knows fewer arguments than gRPC's own: notes every call."""

    def __init__(self, channel: Any, made: Callable[[str, float | None], None]) -> None:
        self._channel = channel
        self._made = made

    def _noting(self, method: str, call: Callable[..., Any], serialize: Callable[[Any], bytes] | None) -> Any:
        def run(request: Any, *, timeout: float | None = None, metadata: Any = None, **_: Any) -> Any:
            if serialize is not None:
                serialize(request)
            self._made(method, timeout)
            return call(request, timeout, metadata)

        return run

    def unary_unary(self, method: str, request_serializer: Any = None, *_: Any, **__: Any) -> Any:
        return self._noting(method, self._channel.unary_unary(method), request_serializer)

    def stream_stream(self, method: str, *_: Any, **__: Any) -> Any:
        return self._noting(method, self._channel.stream_stream(method), None)

    def unary_stream(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("no command makes such a call")

    stream_unary = unary_stream

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> None:
        raise NotImplementedError("no command looks at its connection")

    unsubscribe = subscribe

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FakeGateway:
    """The gateway of commands that run in threads: takes their calls in turn, and is told what to answer.

    Its clock stands still until the test moves it: `clock.sleep_for(30)` ends the calls whose deadline that is.
    """

    def __init__(self, run: Callable[..., Ran], threads: ThreadPoolExecutor) -> None:
        self.clock = grpc_testing.strict_fake_time(0.0)
        self.addresses: list[str] = []
        """Where the commands have called."""
        self._run = run
        self._threads = threads
        self._inner = grpc_testing.channel(SERVICES, self.clock)
        self._made: queue.Queue[tuple[str, float | None] | Future[Ran]] = queue.Queue()
        self._commands: list[Future[Ran]] = []
        self._taken: list[Call] = []

    def open_channel(self, address: str) -> grpc.Channel:
        """In place of rowcall_cli.gateway.open_channel."""
        self.addresses.append(address)
        return _Channel(self._inner, lambda method, timeout: self._made.put((method, timeout)))

    def start(self, *arguments: str, **options: str) -> Future[Ran]:
        """Starts `rowcall ARGUMENTS` in a thread."""
        command = self._threads.submit(self._run, *arguments, **options)
        self._commands.append(command)
        command.add_done_callback(self._made.put)
        return command

    def take(self) -> Call:
        """The next call; fails if the command ends without one, or takes too long."""
        call = self.next_call()
        assert call is not None, f"no further call was made: {[each.result(SECONDS) for each in self._commands]}"
        return call

    def next_call(self) -> Call | None:
        """The next call; None when the command ends without one."""
        made = self._made.get(timeout=SECONDS)
        return None if isinstance(made, Future) else self._take(*made)

    def close(self) -> None:
        """Lets commands end that a failed test has left waiting."""
        for call in self._taken:
            call.time_over()
        while not all(command.done() for command in self._commands):
            made = self._made.get(timeout=SECONDS)
            if not isinstance(made, Future):
                self._take(*made).time_over()

    def _take(self, path: str, timeout: float | None) -> Call:
        method = METHODS[path]
        streams = bool(method.server_streaming)
        if streams:
            metadata, rpc = self._inner.take_stream_stream(method)
            request = rpc.take_request()
        else:
            metadata, request, rpc = self._inner.take_unary_unary(method)
        # The last pair is grpc_testing's own.
        call = Call(
            f"{method.containing_service.name}/{method.name}", dict(metadata[:-1]), request, timeout, rpc, streams
        )
        self._taken.append(call)
        if timeout is not None:
            self.clock.call_in(call.time_over, timeout)
        return call


@pytest.fixture
def fake_gateway(rowcall: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    """A gateway that the test plays, for `rowcall` in a thread of this process."""
    with ThreadPoolExecutor(1) as threads:
        gateway = FakeGateway(rowcall, threads)
        monkeypatch.setattr("rowcall_cli.gateway.open_channel", gateway.open_channel)
        try:
            yield gateway
        finally:
            gateway.close()
