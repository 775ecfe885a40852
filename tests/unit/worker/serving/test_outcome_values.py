"""What the values refuse, and how they read where nothing catches them."""

from __future__ import annotations

from datetime import timedelta

import grpc
import pytest

from rowcall_worker import Cancel, Fail, Retry, Snooze


@pytest.mark.parametrize("delay", [timedelta(seconds=-1), timedelta(days=367)])
def test_a_delay_is_bounded(delay: timedelta) -> None:
    with pytest.raises(ValueError, match="between nothing and 366 days"):
        Snooze(delay)
    with pytest.raises(ValueError, match="between nothing and 366 days"):
        Retry(delay)


def test_a_delay_is_a_timedelta() -> None:
    with pytest.raises(TypeError, match=r"a delay is a datetime\.timedelta, not 5"):
        Snooze(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [grpc.StatusCode.OK, grpc.StatusCode.CANCELLED])
def test_what_is_no_failure_does_not_fail_a_job(code: grpc.StatusCode) -> None:
    with pytest.raises(ValueError, match="is no failure: return a response, or raise Cancel"):
        Fail(code, "")


def test_a_code_is_grpcs() -> None:
    with pytest.raises(TypeError, match=r"needs a grpc\.StatusCode, not 5"):
        Fail(5, "")  # type: ignore[arg-type]


def test_each_says_what_it_is() -> None:
    assert str(Snooze(timedelta(minutes=5))) == "the job asks to run again in 0:05:00"
    assert str(Retry(message="Warming up.")) == "Warming up."
    assert str(Retry()) == "the handler asks for another attempt"
    assert str(Cancel()) == "the handler cancelled its job"
    assert str(Fail(grpc.StatusCode.NOT_FOUND, "Gone.")) == "NOT_FOUND: Gone."
