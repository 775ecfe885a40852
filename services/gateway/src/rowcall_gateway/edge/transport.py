"""What gRPC's server is told of connections and streams: bounds on what a stranger can have it hold. Asked by the server.

Where nothing is said, gRPC lets a client open 2,147,483,647 streams, keep a connection for ever, and take two minutes to begin
with HTTP/2. It bounds by itself what it sends in answer to floods of settings, pings and resets, headers that go on without
end, and what a window lets through (tests/chaos/test_hostile_frames.py does all of that to a gateway).
"""

from __future__ import annotations

import resource
from datetime import timedelta
from typing import Final

MAX_STREAMS: Final = 2_000
"""Calls at once on one connection. A caller that waits for more jobs than that opens a second one; what gRPC's clients have
above it waits its turn in them, and is not refused."""

MAX_METADATA_BYTES: Final = 16 * 1024
"""Of a call's metadata; above it some calls are refused, and above twice that all: so gRPC spreads the refusals."""

COMING: Final = 2_000
"""Calls that have come and that the event loop has not taken in yet: at least so many, and as many as may wait for jobs, so that it is
we who refuse the next, in words. Above that gRPC ends some as they come, whosever they are, and above a fifth more all, as if their
callers had cancelled them (CANCELLED); by itself from 1,000 on: of 3,000 calls at once it ended 686. Some 3 KB each."""

HANDSHAKE: Final = timedelta(seconds=10)
"""How long a connection may take to begin, TLS included. Those that never do hold a socket each."""

PING_EVERY: Final = timedelta(seconds=5)
"""Between a client's keepalive pings at least, whether it has calls or not. gRPC's own servers allow one in five minutes while
nothing is sent, and end the connection, with every call on it, of a client that keeps it alive as is usual in Go and Java: a
ping every ten seconds. A call that waits sends nothing."""

PINGS_TOO_SOON: Final = 2
"""So many sooner than that are borne; then the connection ends (ENHANCE_YOUR_CALM, "too_many_pings")."""

KEEPALIVE: Final = timedelta(minutes=1)
"""After which a client that has sent nothing is asked whether it is there. The waits of one that has vanished are others' room."""

KEEPALIVE_ANSWER: Final = timedelta(seconds=20)
"""How long it has to answer."""

IDLE: Final = timedelta(minutes=15)
"""After which a connection without calls is ended. Clients open another at their next call, unseen."""

AGE: Final = timedelta(minutes=30)
"""After which a connection takes no new calls (GOAWAY, to which clients open another); a tenth sooner or later, so that they do
not all come back at once. They come back spread over the gateways that there are by then; and a stream that was opened and
never sends its request ends with its connection."""

AGE_MARGIN: Final = timedelta(seconds=15)
"""How much longer than a call can wait the calls of such a connection have to end."""

SPARED_FILES: Final = 256
"""Of the files that the process may have open, those that connections of callers leave to databases, logs and the rest."""


def server_options(
    *, shares_port: bool, max_message_bytes: int, longest_call: timedelta, max_waiters: int
) -> tuple[tuple[str, int], ...]:
    """The channel arguments of a gateway's server.

    Args:
        shares_port: Whether other gateways listen on the same port.
        max_message_bytes: The largest message that is received.
        longest_call: How long a call waits at most.
        max_waiters: How many calls may wait at once.
    """
    coming = max(max_waiters, COMING)
    return (
        # On by default, it lets a second process on the port take calls away in silence.
        ("grpc.so_reuseport", int(shares_port)),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.server.max_pending_requests", coming),
        ("grpc.server.max_pending_requests_hard_limit", coming + coming // 5),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
        ("grpc.max_allowed_incoming_connections", max_connections()),
        ("grpc.server_handshake_timeout_ms", _ms(HANDSHAKE)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(PING_EVERY)),
        ("grpc.http2.max_ping_strikes", PINGS_TOO_SOON),
        ("grpc.keepalive_time_ms", _ms(KEEPALIVE)),
        ("grpc.keepalive_timeout_ms", _ms(KEEPALIVE_ANSWER)),
        ("grpc.max_connection_idle_ms", _ms(IDLE)),
        ("grpc.max_connection_age_ms", _ms(AGE)),
        ("grpc.max_connection_age_grace_ms", _ms(longest_call + AGE_MARGIN)),
    )


def max_connections() -> int:
    """How many connections callers may have: a gateway that has no file left cannot reach its databases either."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST
    return min(max(soft - SPARED_FILES, soft // 2), _MOST)


_MOST: Final = 100_000
"""Connections of one process, whatever it may open: some 30 KB each."""


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
