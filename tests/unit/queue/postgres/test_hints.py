"""What hints say."""

from __future__ import annotations

from uuid import uuid4

from rowcall.queue.postgres.hints import done_channel, parse_cancel, parse_done, parse_ready


def test_payloads_are_read_and_what_cannot_be_is_left_out() -> None:
    ids = [uuid4(), uuid4()]
    assert parse_done(",".join(each.hex for each in ids)) == ids
    assert parse_done(f"{ids[0].hex},nonsense,,{ids[1].hex}") == ids
    assert parse_cancel(f"nonsense,{ids[1].hex}") == [ids[1]]
    assert parse_ready("1,22,333") == [1, 22, 333]
    assert parse_ready("1,x,,-2,٣,3") == [1, 3]
    assert (parse_done(""), parse_ready("")) == ([], [])


def test_a_gateways_channel_is_its_own_and_fits_a_name() -> None:
    one, other = done_channel(uuid4()), done_channel(uuid4())
    assert one != other
    assert len(one) < 64
