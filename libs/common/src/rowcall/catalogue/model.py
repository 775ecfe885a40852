"""A job method and its policy, as plain values read from a descriptor image.

Used by the gateway (routing, validation, policy) and by the worker (which type a
handler must answer with).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from google.protobuf.message import Message

from rowcall.validation import Validator


@dataclass(frozen=True, slots=True)
class Policy:
    """The scheduling policy of a method, every default resolved. See rowcall/options/v1/job.proto."""

    queue: str = "default"
    priority: int = 3
    """rowcall.options.v1.Priority: the lane, 1 URGENT to 4 LOW."""
    max_attempts: int = 5
    backoff_initial: timedelta = timedelta(seconds=1)
    backoff_maximum: timedelta = timedelta(minutes=5)
    backoff_multiplier: float = 2.0
    timeout: timedelta = timedelta(minutes=5)
    """Of one attempt."""
    wait: timedelta = timedelta(seconds=3)
    """Of a call that returns an operation."""
    retention: int = 2
    """rowcall.options.v1.Retention."""
    on_abandon: int = 1
    """rowcall.options.v1.OnAbandon."""
    deadline: timedelta | None = None
    """Of the whole job, from the time it was to start; None: none."""
    retry_codes: tuple[int, ...] = (4, 8, 10, 14)
    """google.rpc.Code, ascending: the statuses of a handler's own that are tried again."""


@dataclass(frozen=True, slots=True)
class JobMethod:
    """A gRPC method that is a job type."""

    name: str
    """package.Service/Method"""
    request_class: type[Message]
    """The request's class, in the image's own descriptor pool."""
    response_class: type[Message]
    """The class a job answers with: the method's, or operation_info's response_type."""
    returns_operation: bool
    """Whether callers get a google.longrunning.Operation."""
    has_request_id: bool
    """Whether the request has a string field "request_id" (AIP-155)."""
    policy: Policy
    validator: Validator = field(default_factory=Validator, compare=False, repr=False)
    """Holds requests to the rules of the image's own types. It lives as long as the image's methods do."""

    @property
    def path(self) -> str:
        """The path of the RPC: "/package.Service/Method"."""
        return "/" + self.name

    @property
    def request_type(self) -> str:
        """The full name of the request's type."""
        return self.request_class.DESCRIPTOR.full_name

    @property
    def response_type(self) -> str:
        """The full name of the type a job answers with."""
        return self.response_class.DESCRIPTOR.full_name
