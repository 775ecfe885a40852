"""W3C trace context: what is accepted, what is refused, what is minted."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rowcall.tracing import MAX_TRACESTATE_CHARS, TraceContext

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"

hexes = st.text("0123456789abcdef", min_size=1)


def exactly(size: int) -> st.SearchStrategy[str]:
    return st.text("0123456789abcdef", min_size=size, max_size=size)


def is_valid(context: TraceContext) -> bool:
    """Version 00 to the letter, with ids that are not all zeros."""
    return (
        re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]", context.traceparent) is not None
        and set(context.trace_id) != {"0"}
        and set(context.span_id) != {"0"}
    )


def test_reads_a_position() -> None:
    context = TraceContext.accept(GOOD, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7")
    assert context.traceparent == GOOD
    assert (context.trace_id, context.span_id, context.sampled) == (TRACE, SPAN, True)
    assert context.tracestate == "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"
    assert not TraceContext.accept(f"00-{TRACE}-{SPAN}-00").sampled


@given(exactly(32), exactly(16), exactly(2))
def test_every_wellformed_position_is_kept(trace: str, span: str, flags: str) -> None:
    context = TraceContext.parse(f"00-{trace}-{span}-{flags}")
    if set(trace) == {"0"} or set(span) == {"0"}:
        assert context is None
    else:
        assert context is not None
        assert is_valid(context)
        assert (context.trace_id, context.span_id) == (trace, span)
        assert context.sampled == bool(int(flags, 16) & 1)


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        GOOD.upper(),
        f" {GOOD}",
        f"{GOOD} ",
        f"{GOOD}\n",
        GOOD.replace("-", "_"),
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"01-{TRACE}-{SPAN}-01.more",
        f"01-{TRACE}-{SPAN}-011",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}0-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0g",
        # Digits of another script, which Python's int() would read.
        f"00-{TRACE[:-1]}\u0664-{SPAN}-01",
        "x" * 100_000,
    ],
)
def test_what_cannot_be_read_is_minted_anew(traceparent: str | None) -> None:
    assert TraceContext.parse(traceparent) is None
    context = TraceContext.accept(traceparent, "congo=1")
    assert is_valid(context)
    assert context.trace_id != TRACE
    assert context.tracestate is None, "the state of a trace that is not continued"


@pytest.mark.parametrize("rest", ["", "-", "-what-the-future-will-be-like"])
def test_later_version_is_read_and_passed_on_as_ours(rest: str) -> None:
    context = TraceContext.accept(f"cc-{TRACE}-{SPAN}-ff{rest}")
    assert context.traceparent == f"00-{TRACE}-{SPAN}-03"


@given(
    st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}(-[a-z]*)?", fullmatch=True)
)
@example(GOOD)
@example(f"01-{TRACE}-{SPAN}-01-x")
def test_agrees_with_opentelemetry(traceparent: str) -> None:
    # OpenTelemetry takes blanks around the header; gRPC's metadata never has them.
    traceparent = traceparent.strip()
    theirs = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": traceparent})).get_span_context()
    ours = TraceContext.parse(traceparent)
    if ours is None:
        assert not theirs.is_valid
    else:
        assert (int(ours.trace_id, 16), int(ours.span_id, 16)) == (theirs.trace_id, theirs.span_id)


@given(st.none() | st.text(), st.none() | st.text())
def test_accept_always_gives_a_valid_position(traceparent: str | None, tracestate: str | None) -> None:
    assert is_valid(TraceContext.accept(traceparent, tracestate))


def test_minted_positions_differ() -> None:
    minted = [TraceContext.mint() for _ in range(1000)]
    assert all(is_valid(context) and not context.sampled for context in minted)
    assert len({context.trace_id for context in minted}) == 1000
    assert TraceContext.mint(sampled=True).sampled


def test_mint_never_gives_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["0" * 32 + SPAN, TRACE + "0" * 16, TRACE + SPAN])
    monkeypatch.setattr("rowcall.tracing.os.urandom", lambda size: bytes.fromhex(next(drawn)))
    assert TraceContext.mint().traceparent == f"00-{TRACE}-{SPAN}-00"


def test_child_stays_in_the_trace() -> None:
    parent = TraceContext.accept(GOOD, "congo=1")
    child = parent.child()
    assert is_valid(child)
    assert (child.trace_id, child.sampled, child.tracestate) == (TRACE, True, "congo=1")
    assert child.span_id != SPAN
    assert child.child().span_id != child.span_id


@pytest.mark.parametrize(
    ("given_state", "kept"),
    [
        (None, None),
        ("", None),
        (" , ,", None),
        ("a=1", "a=1"),
        ("a=1 ,\tb=2,,c=3", "a=1,b=2,c=3"),
        ("tenant@system=x y", "tenant@system=x y"),
        ("0tenant@system=1", "0tenant@system=1"),
        ("a*-_/0=!", "a*-_/0=!"),
        ("a=1,a=2", None),
        ("0a=1", None),
        ("A=1", None),
        ("a", None),
        ("a=", None),
        ("a=b=c", None),
        ("a=é", None),
        ("a=\x7f", None),
        ("a@b@c=1", None),
        ("a@=1", None),
        (f"{'k' * 256}=1", f"{'k' * 256}=1"),
        (f"{'k' * 257}=1", None),
        (f"a={'v' * 256}", f"a={'v' * 256}"),
        (f"a={'v' * 257}", None),
        (",".join(f"k{n}=1" for n in range(32)), ",".join(f"k{n}=1" for n in range(32))),
        (",".join(f"k{n}=1" for n in range(33)), None),
        (
            f"a={'v' * 255},b={'v' * (MAX_TRACESTATE_CHARS - 260)}",
            f"a={'v' * 255},b={'v' * (MAX_TRACESTATE_CHARS - 260)}",
        ),
        (f"a={'v' * 255},b={'v' * (MAX_TRACESTATE_CHARS - 259)}", None),
    ],
)
def test_tracestate(given_state: str | None, kept: str | None) -> None:
    context = TraceContext.accept(GOOD, given_state)
    assert context.traceparent == GOOD, "the trace goes on, whatever its state"
    assert context.tracestate == kept


@given(st.text(st.characters(codec="ascii")))
def test_tracestate_that_is_kept_can_be_sent_as_metadata(state: str) -> None:
    kept = TraceContext.accept(GOOD, state).tracestate
    if kept is not None:
        assert len(kept) <= MAX_TRACESTATE_CHARS
        assert all(0x20 <= ord(char) <= 0x7E for char in kept)
        assert TraceContext.accept(GOOD, kept).tracestate == kept


def test_from_metadata() -> None:
    assert TraceContext.from_metadata([("user-agent", "x"), ("traceparent", GOOD)]).traceparent == GOOD
    assert TraceContext.from_metadata([("traceparent", GOOD), ("traceparent", GOOD)]).trace_id != TRACE
    assert TraceContext.from_metadata([("traceparent-bin", GOOD.encode())]).trace_id != TRACE
    both = TraceContext.from_metadata([("tracestate", "a=1"), ("traceparent", GOOD), ("tracestate", "b=2")])
    assert both.tracestate == "a=1,b=2"
