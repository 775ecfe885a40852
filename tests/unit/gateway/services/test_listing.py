"""The filter of ListOperations."""

from __future__ import annotations

import pytest

from rowcall.errors import RowcallError, reason_name
from rowcall_gateway.services.listing import Filter


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", Filter()),
        ("done=true", Filter(done=True)),
        (" done = false ", Filter(done=False)),
        ('method="a.B/C"', Filter(method="a.B/C")),
        ('method="/a.B/C"', Filter(method="a.B/C")),
        ('done=true AND method="a.B/C"', Filter(done=True, method="a.B/C")),
        ('method="a.B/C" done=false', Filter(done=False, method="a.B/C")),
    ],
)
def test_a_filter_is_read(text: str, wanted: Filter) -> None:
    assert Filter.parse(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "done",
        "done=maybe",
        "done=true AND",
        "AND done=true",
        "done=true OR done=false",
        "done=true done=false",
        "method=a.B/C",
        'method="a.B/C',
        "state=READY",
        "done=true)",
    ],
)
def test_a_filter_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(RowcallError) as refused:
        Filter.parse(text)
    assert reason_name(refused.value.reason) == "INVALID_FILTER"
