"""Whether the environment has something sent over OTLP, and who it says that this process is. Called by `telemetry` for spans and by
`head_export` for heads of the audit's chains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource


def is_wanted(signal: Literal["TRACES", "LOGS"], what: str, environment: Mapping[str, str]) -> bool:
    """Whether a signal is asked for, by OpenTelemetry's own variables.

    Args:
        signal: As those name it.
        what: This process sends by it, for the error.
        environment: Where they are.

    Raises:
        ValueError: The environment asks for something that this process does not have.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    own, shared = f"OTEL_EXPORTER_OTLP_{signal}", "OTEL_EXPORTER_OTLP"
    exporter = environment.get(f"OTEL_{signal}_EXPORTER", "otlp")
    if exporter == "none" or not any(environment.get(f"{name}_ENDPOINT") for name in (own, shared)):
        return False
    if exporter != "otlp":
        raise ValueError(f"OTEL_{signal}_EXPORTER is {exporter!r}; this process has otlp and none")
    name = next((name for name in (f"{own}_PROTOCOL", f"{shared}_PROTOCOL") if environment.get(name)), None)
    if name is not None and environment[name] != "grpc":
        raise ValueError(f"{name} is {environment[name]!r}; this process exports {what} over grpc only")
    return True


def resource(environment: Mapping[str, str]) -> Resource:
    """Who this process is to whoever receives it; attributes are the SDK's to read."""
    # Loaded where somebody asks for it: a good part of a gateway's start.
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    return Resource.create({SERVICE_NAME: environment.get("OTEL_SERVICE_NAME", "rowcall-gateway")})
