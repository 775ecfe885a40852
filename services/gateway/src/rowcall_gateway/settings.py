"""What a gateway is told at its start, by environment (ROWCALL_…) and flags. See `rowcall.settings`."""

from __future__ import annotations

import platform
from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from rowcall.settings import ClusterSettings, Duration, ProcessCount, ReadableFiles
from rowcall_gateway.edge.address import DEFAULT_LISTEN, Address
from rowcall_gateway.edge.identity import IdentityMode, check_address


class GatewaySettings(ClusterSettings):
    """How a gateway serves: where, whom, what, and how much at once."""

    program: ClassVar[str] = "rowcall-gateway"
    usage_example: ClassVar[str] = (
        "rowcall-gateway --catalogue postgresql:///rowcall_catalogue --shard a=postgresql:///rowcall_a "
        "--image documents.binpb"
    )

    identity: IdentityMode = Field(
        default=IdentityMode.INSECURE_DEV,
        description="How callers are known. insecure-dev: they are believed, and the gateway listens on a loopback "
        "address only. insecure-network: they are believed, whoever reaches the port.",
        examples=["insecure-dev"],
    )
    listen: str = Field(
        default=DEFAULT_LISTEN,
        description="Where to listen; port 0 lets the operating system choose.",
        examples=["127.0.0.1:50051"],
        json_schema_extra={"metavar": "HOST:PORT"},
    )
    processes: ProcessCount = Field(
        default=1,
        description="How many gateway processes to run, all on the same port. Each has pools and limits of its own.",
        examples=["2"],
    )
    images: ReadableFiles = Field(
        default=(),
        description="Descriptor images of the methods to serve, as `buf build -o` writes them.",
        examples=["documents.binpb"],
        json_schema_extra={"flag": "image", "metavar": "FILE"},
    )
    probe: bool = Field(
        default=True, description="Serve the built-in ProbeService, for canaries and benchmarks.", examples=["true"]
    )
    reflection: bool = Field(
        default=True, description="Tell callers the served services and types over reflection.", examples=["true"]
    )
    max_request_bytes: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)] = Field(
        default=1024 * 1024, description="A larger request is refused.", examples=["1048576"]
    )
    max_batch_bytes: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)] = Field(
        default=4 * 1024 * 1024, description="A larger batch of requests is refused.", examples=["4194304"]
    )
    max_call_wait: Duration = Field(
        default=timedelta(seconds=50),
        description="How long a call waits for its job at most, and without a deadline of its own.",
        examples=["50s"],
    )
    max_waiters: Annotated[int, Field(ge=1)] = Field(
        default=10_000, description="How many calls may wait for jobs at once.", examples=["10000"]
    )
    key_ttl: Duration = Field(
        default=timedelta(days=7), description="How long an idempotency key names its job.", examples=["7d"]
    )
    gather: Duration = Field(
        default=timedelta(milliseconds=10),
        description="How long a submit waits for its neighbours at most while many calls are in flight; 0 is not at all.",
        examples=["10ms"],
    )
    gather_above: Annotated[int, Field(ge=0)] = Field(
        default=8, description="How many calls in flight are many.", examples=["8"]
    )
    submit_batch: Annotated[int, Field(ge=1, le=5000)] = Field(
        default=500, description="How many calls are written in one transaction at most.", examples=["500"]
    )
    drain_notice: Duration = Field(
        default=timedelta(0),
        description="How long a stopping gateway still takes calls after its health says NOT_SERVING, so that balancers "
        "notice first.",
        examples=["5s"],
    )
    grace: Duration = Field(
        default=timedelta(seconds=30),
        description="How long a stopping gateway takes to end the calls that wait.",
        examples=["30s"],
    )

    @property
    def address(self) -> Address:
        """Where to listen."""
        return Address.parse(self.listen)

    @property
    def max_message_bytes(self) -> int:
        """GRPC's own limit: a little above ours, so that ours answers, with an envelope."""
        return 2 * max(self.max_request_bytes, self.max_batch_bytes)

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, listen: str, info: ValidationInfo) -> str:
        address = Address.parse(listen)
        # Where the identity is wrong, as the strictest one has it: the mode that would allow it is told with it.
        check_address(info.data.get("identity", IdentityMode.INSECURE_DEV), address.host)
        return listen

    @field_validator("processes")
    @classmethod
    def _check_processes(cls, processes: int) -> int:
        if processes > 1 and platform.system() != "Linux":
            raise ValueError("is above 1; only Linux spreads connections over the processes that listen on a port")
        return processes

    @field_validator("max_call_wait", "key_ttl")
    @classmethod
    def _check_positive(cls, duration: timedelta) -> timedelta:
        if duration <= timedelta(0):
            raise ValueError("is not above 0")
        return duration
