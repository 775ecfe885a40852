"""Where `rowcall dev` may listen: where nobody but this machine reaches it."""

from __future__ import annotations

import pytest

from rowcall.address import Address
from rowcall_standalone.listen import parse, parse_ops


def test_a_loopback_address_or_for_operators_a_port_alone() -> None:
    assert parse("[::1]:50051") == parse_ops("[::1]:50051") == Address("::1", 50051)
    assert parse_ops("9464") == Address("127.0.0.1", 9464)


@pytest.mark.parametrize("text", ["0.0.0.0:9464", "192.0.2.1:9464", "db.example:9464"])
def test_what_others_reach_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a loopback address"):
        parse(text)
    with pytest.raises(ValueError, match="is not a loopback address; a port alone is one of"):
        parse_ops(text)


@pytest.mark.parametrize("text", ["nowhere", "127.0.0.1:", "127.0.0.1:65536"])
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse(text)
    with pytest.raises(ValueError, match=f"'{text}' .*or a port alone, for example 9464"):
        parse_ops(text)
