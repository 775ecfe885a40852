"""What can be switched on beside the defaults, to see what it costs: `--with NAME`.

What is not built yet is listed too: asked for, it is refused and not left out in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rowcall_gateway.edge.credentials.verified import MAX_TOKENS


@dataclass(frozen=True, slots=True)
class Layer:
    """One switch."""

    name: str
    about: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """What services are started with."""
    tokens: int = 0
    """With how many tokens calls come, in turn."""
    asks: bool = False
    """Whether every caller asks for its trace to be recorded."""
    bounds: bool = False
    """Whether everything that is called is bounded, so high that nothing is refused."""
    built: bool = True
    """Whether this release has it."""


_OTLP = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
}
"""As much of a collector as nobody listens at."""

LAYERS = (
    Layer(
        "tracing", "spans of 5 % of the traces, of calls, submissions and attempts, exported over OTLP to nobody", _OTLP
    ),
    Layer("tracing-asked", "the same, and all callers ask for theirs to be recorded", _OTLP, asks=True),
    Layer(
        "activity",
        "spans of 5 % of the traces kept on the shards, whether they are exported too or not",
        {"ROWCALL_ACTIVITY": "true"},
    ),
    Layer("jwt", "callers known by bearer tokens, of submit and call: one token, as its caller sends it", tokens=1),
    Layer(
        "jwt-new",
        "the same, but a new RS256 token with each call, more than a gateway remembers in turn",
        tokens=MAX_TOKENS + 2000,
    ),
    Layer(
        "admission",
        "six bounds on each call, of its tenant, queue, method and their pairs, on all that they can bound, none reached",
        bounds=True,
    ),
    Layer("rls", "row level security for reads", built=False),
    Layer(
        "metrics",
        "everything counted, an operations port in each service, and looks at what queues stand at; nobody reads it",
        {"ROWCALL_OPS_LISTEN": "0"},
    ),
)


class UnknownLayer(ValueError):
    """A layer that there is not, or not yet."""


def named(name: str) -> Layer:
    """A layer. Raises UnknownLayer."""
    for layer in LAYERS:
        if layer.name == name:
            if not layer.built:
                raise UnknownLayer(f"{name} ({layer.about}) is not built in this release; leave it out")
            return layer
    raise UnknownLayer(f"there is no layer {name!r}; there are {', '.join(layer.name for layer in LAYERS)}")
