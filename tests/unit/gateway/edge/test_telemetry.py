"""What a gateway tells of a call and of what it submits: nothing that hangs on what was dropped."""

from __future__ import annotations

import grpc
import pytest

from rowcall.telemetry import metrics, tallies
from rowcall.telemetry.sampling import Sampling
from rowcall_gateway.edge.telemetry import Traces
from tests.fix_spans import Crowded


def test_a_submission_is_dropped_with_its_call(crowded: Crowded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "_kept", True)
    before = metrics.TELEMETRY_DROPPED.value("spans")
    call = Traces(crowded.spans, Sampling(1)).begin(())
    call.send("probe").written({})
    call.end(
        "a.v1.S/M", grpc.StatusCode.OK, None, tenant="acme", actor=None, request_id=None, operation="tenants/acme/x"
    )
    crowded.spans.shutdown()

    assert crowded.names == ["first", "second"]
    assert metrics.TELEMETRY_DROPPED.value("spans") - before == 2
