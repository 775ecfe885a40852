"""The closed metadata table: what is read, what is refused and with which words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from rowcall.errors import RowcallError, reason_name
from rowcall_gateway.edge.metadata import CallMetadata, read_metadata

Items = tuple[tuple[str, str | bytes], ...]


def test_everything_that_is_in_the_table_is_read() -> None:
    read = read_metadata(
        (
            ("idempotency-key", "order-7"),
            ("prefer", "respond-async, wait=5"),
            ("rowcall-run-at", "2031-05-04T13:30:00+02:00"),
            ("rowcall-priority", "urgent"),
            ("rowcall-fairness-key", "project-9"),
            ("rowcall-label-colour", "blue"),
            ("rowcall-label-a.b_c-d", ""),
            ("rowcall-tenant", "acme"),
            ("rowcall-actor", "ada@example.org"),
            ("grpc-previous-rpc-attempts", "2"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        )
    )

    assert read == CallMetadata(
        idempotency_key="order-7",
        wait=timedelta(seconds=5),
        run_at=datetime(2031, 5, 4, 13, 30, tzinfo=timezone(timedelta(hours=2))),
        priority=1,
        fairness_key="project-9",
        labels={"colour": "blue", "a.b_c-d": ""},
        tenant="acme",
        actor="ada@example.org",
        previous_attempts=2,
    )


def test_keys_of_others_are_left_alone() -> None:
    items: Items = (
        ("x-goog-request-params", "name=tenants%2Facme"),
        ("x-goog-api-client", "gl-python/3.11"),
        ("user-agent", "grpc-python/1.80"),
        ("authorization", "Bearer secret"),
        ("x-custom-bin", b"\x00\x01"),
        ("row-call", "no"),
    )
    assert read_metadata(items) == CallMetadata()


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("wait=0", timedelta(0)),
        ('wait="10"', timedelta(seconds=10)),
        ("WAIT=10", timedelta(seconds=10)),
        ("wait = 10 ; x=y", timedelta(seconds=10)),
        ("wait=7, wait=9", timedelta(seconds=7)),
        ("wait=99999999999999999999", timedelta(days=1)),
        ("respond-async", None),
        ("", None),
    ],
)
def test_prefer_is_read_as_rfc_7240_says(value: str, wait: timedelta | None) -> None:
    assert read_metadata((("prefer", value),)).wait == wait


def test_the_first_of_several_preferences_counts() -> None:
    assert read_metadata((("prefer", "respond-async"), ("prefer", "wait=3"), ("prefer", "wait=4"))).wait == timedelta(
        seconds=3
    )


@pytest.mark.parametrize("value", ["high", "HIGH", "PRIORITY_HIGH", "priority_high"])
def test_priority_is_a_lanes_name(value: str) -> None:
    assert read_metadata((("rowcall-priority", value),)).priority == 2


@pytest.mark.parametrize(
    "value", ["2031-05-04T13:30:00Z", "2031-05-04t15:30:00.000000000+02:00", "2031-05-04T13:30:00z"]
)
def test_a_time_may_be_in_any_zone(value: str) -> None:
    assert read_metadata((("rowcall-run-at", value),)).run_at == datetime(2031, 5, 4, 13, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("rowcall-priorty", "rowcall-priority"),
        ("rowcall-fairness", "rowcall-fairness-key"),
        ("rowcall-runat", "rowcall-run-at"),
        ("rowcall-tenat", "rowcall-tenant"),
        ("rowcall-labels-colour", "rowcall-label-NAME"),
    ],
)
def test_a_typo_is_refused_with_what_was_meant(key: str, suggestion: str) -> None:
    with pytest.raises(RowcallError) as refused:
        read_metadata(((key, "x"),))
    assert reason_name(refused.value.reason) == "UNKNOWN_METADATA"
    assert refused.value.metadata == {"key": key}
    assert f"did you mean {suggestion}?" in refused.value.message


def test_a_key_like_no_other_is_refused_with_the_table() -> None:
    with pytest.raises(RowcallError, match="rowcall-fairness-key, rowcall-on-done, rowcall-priority") as refused:
        read_metadata((("rowcall-zzzzzzzzzzzz", "x"),))
    assert reason_name(refused.value.reason) == "UNKNOWN_METADATA"


def test_what_is_to_follow_the_job_is_read() -> None:
    assert read_metadata((("rowcall-on-done", "a.B/C"),)).on_done == "a.B/C"
    assert read_metadata(()).on_done is None


MANY_LABELS: Items = tuple((f"rowcall-label-{number}", "") for number in range(17))


@pytest.mark.parametrize(
    ("items", "key"),
    [
        ((("idempotency-key", ""),), "idempotency-key"),
        ((("idempotency-key", "x" * 256),), "idempotency-key"),
        ((("rowcall-on-done", ""),), "rowcall-on-done"),
        ((("idempotency-key", "a"), ("idempotency-key", "b")), "idempotency-key"),
        ((("idempotency-key", b"a"),), "idempotency-key"),
        ((("prefer", "wait=soon"),), "prefer"),
        ((("prefer", "wait=-1"),), "prefer"),
        ((("prefer", "wait=1.5"),), "prefer"),
        ((("prefer", "wait"),), "prefer"),
        ((("rowcall-run-at", "tomorrow"),), "rowcall-run-at"),
        ((("rowcall-run-at", "2031-05-04T13:30:00"),), "rowcall-run-at"),
        ((("rowcall-run-at", "2020-W01-1T00:00:00Z"),), "rowcall-run-at"),
        ((("rowcall-run-at", "20310504T133000Z"),), "rowcall-run-at"),
        ((("rowcall-run-at", "2031-05-04T13:30Z"),), "rowcall-run-at"),
        ((("rowcall-run-at", "2031-05-04T13:30:00,5Z"),), "rowcall-run-at"),
        ((("rowcall-run-at", "9999-12-31T23:59:59-01:00"),), "rowcall-run-at"),
        ((("rowcall-run-at", "0001-01-01T00:00:00+01:00"),), "rowcall-run-at"),
        ((("rowcall-priority", "unspecified"),), "rowcall-priority"),
        ((("rowcall-priority", "5"),), "rowcall-priority"),
        ((("rowcall-fairness-key", "x" * 64),), "rowcall-fairness-key"),
        ((("rowcall-fairness-key", "two words"),), "rowcall-fairness-key"),
        ((("rowcall-actor", "x" * 256),), "rowcall-actor"),
        ((("rowcall-label-", "x"),), "rowcall-label-"),
        ((("rowcall-label-.x", "x"),), "rowcall-label-.x"),
        ((("rowcall-label-x", "y" * 256),), "rowcall-label-x"),
        ((("rowcall-label-x", "1"), ("rowcall-label-x", "2")), "rowcall-label-x"),
        ((("rowcall-label-x-bin", b"1"),), "rowcall-label-x-bin"),
        (MANY_LABELS, "rowcall-label-16"),
        ((("grpc-previous-rpc-attempts", "many"),), "grpc-previous-rpc-attempts"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused(items: Items, key: str) -> None:
    with pytest.raises(RowcallError) as refused:
        read_metadata(items)
    assert reason_name(refused.value.reason) == "INVALID_METADATA"
    assert refused.value.metadata == {"key": key}
    assert refused.value.message.startswith(f"The metadata {key} ")


@pytest.mark.parametrize(
    "key",
    [
        "idempotency-key",
        "prefer",
        "rowcall-run-at",
        "rowcall-priority",
        "rowcall-fairness-key",
        "rowcall-label-colour",
        "rowcall-on-done",
        "rowcall-tenant",
        "rowcall-actor",
        "grpc-previous-rpc-attempts",
    ],
)
def test_what_is_not_ascii_is_refused_under_its_key(key: str) -> None:
    with pytest.raises(RowcallError) as caught:
        read_metadata(((key, "é日"),))
    assert reason_name(caught.value.reason) == "INVALID_METADATA"
    assert caught.value.metadata == {"key": key}
    assert caught.value.message.startswith(f"The metadata {key} is not ASCII")
    assert read_metadata((("x-custom", "é日"),)) == CallMetadata(), "others' keys are theirs"
