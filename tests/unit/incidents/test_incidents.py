"""Which failures are the same, and how a process gathers them: bounded, in nobody's way, without what an exception says."""

from __future__ import annotations

import asyncio
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from google.rpc.code_pb2 import Code

from rowcall.errors import RowcallError
from rowcall.incidents import recorder
from rowcall.incidents.fingerprints import fingerprint, shape
from rowcall.incidents.model import Noted
from rowcall.incidents.recorder import KINDS, Incidents
from rowcall.v1.error_reason_pb2 import ErrorReason
from tests.support.waiting import until

SECRET = "card 4111 1111"


def raised(code: str, *, lines_before: int = 0, module: str = "acme.mail") -> BaseException:
    """What `handle()` of a module raises, which has so many lines before it."""
    space: dict[str, Any] = {"__name__": module}
    exec(compile("\n" * lines_before + textwrap.dedent(code), "mail.py", "exec"), space)
    try:
        space["handle"]()
    except Exception as error:  # noqa: BLE001 - it is what is asked for
        return error
    raise AssertionError("it raised nothing")


PLAIN = "def handle():\n    raise ValueError('card 4111 1111')"


def of(error: BaseException, method: str = "a.B/C", code: int = Code.INTERNAL) -> str:
    return fingerprint("worker", method, code, shape(error))


def test_the_same_failure_is_the_same_wherever_its_lines_have_moved() -> None:
    assert of(raised(PLAIN)) == of(raised(PLAIN, lines_before=40))


@pytest.mark.parametrize(
    "other",
    [
        lambda: of(raised(PLAIN.replace("ValueError", "KeyError"))),
        lambda: of(raised("def inner():\n    raise ValueError\ndef handle():\n    inner()")),
        lambda: of(raised(PLAIN, module="acme.other")),
        lambda: of(raised(PLAIN), method="a.B/D"),
        lambda: of(raised(PLAIN), code=Code.UNKNOWN),
        lambda: of(
            raised("def handle():\n  try:\n    1/0\n  except ZeroDivisionError as e:\n    raise ValueError from e")
        ),
    ],
    ids=["type", "way", "module", "method", "code", "cause"],
)
def test_another_failure_is_another(other: Callable[[], str]) -> None:
    assert of(raised(PLAIN)) != other()


def test_what_an_exception_says_is_nowhere_in_it() -> None:
    assert of(raised(PLAIN)) == of(raised(PLAIN.replace("4111", "4222")))
    found = shape(raised(PLAIN))
    assert SECRET not in repr(found)
    assert found.kind == "ValueError"
    assert found.location == "acme.mail:handle:2"


def test_reasons_and_causes_are_told() -> None:
    error = RowcallError(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, SECRET)
    error.__cause__ = OSError(SECRET)
    assert shape(error).kind == "RowcallError(SHARD_UNAVAILABLE) < OSError"


def test_a_chain_of_causes_that_is_a_circle_ends() -> None:
    one, two = ValueError(), KeyError()
    one.__cause__, two.__cause__ = two, one
    assert shape(one).kind.startswith("ValueError < KeyError < ValueError")


class Kept:
    """Where incidents are written, when it is there."""

    def __init__(self) -> None:
        self.away = False
        self.batches: list[Sequence[Noted]] = []
        self.tries = 0

    async def write(self, noted: Sequence[Noted]) -> Sequence[str]:
        self.tries += 1
        if self.away:
            raise RowcallError(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, "away")
        self.batches.append(noted)
        return []


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.setattr(recorder, "WRITE_EVERY", 0.01)
    monkeypatch.setattr(recorder, "_LONGEST_PAUSE", 0.02)
    return Kept()


def note(incidents: Incidents, method: str = "a.B/C", code: int = Code.INTERNAL, trace: str = "t") -> None:
    incidents.note(ValueError(SECRET), method=method, code=code, trace_id=trace)


async def test_many_of_one_kind_are_one_with_their_number_and_the_last_trace(kept: Kept) -> None:
    incidents = Incidents("worker", kept.write, version="1.2")
    for number in range(50):
        note(incidents, trace=str(number))
    incidents.start()
    await until(lambda: bool(kept.batches))
    await incidents.close()
    [[noted]] = kept.batches
    assert (noted.count, noted.trace_id, noted.version, noted.service) == (50, "49", "1.2", "worker")
    assert SECRET not in repr(noted)


@pytest.mark.parametrize(
    "code", [Code.NOT_FOUND, Code.INVALID_ARGUMENT, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.OK]
)
async def test_what_is_no_fault_of_ours_is_not_noted(kept: Kept, code: int) -> None:
    incidents = Incidents("worker", kept.write, version="1")
    note(incidents, code=code)
    incidents.start()
    await incidents.close()
    assert kept.batches == []


async def test_what_cannot_be_written_is_kept_together_until_it_can(kept: Kept) -> None:
    kept.away = True
    incidents = Incidents("worker", kept.write, version="1")
    incidents.start()
    note(incidents)
    await until(lambda: kept.tries >= 3)
    note(incidents)
    kept.away = False
    await until(lambda: bool(kept.batches))
    await incidents.close()
    assert [sum(each.count for each in batch) for batch in kept.batches] == [2]


async def test_more_kinds_than_are_kept_are_dropped_and_counted(kept: Kept) -> None:
    kept.away = True
    incidents = Incidents("worker", kept.write, version="1")
    incidents.start()
    for number in range(KINDS + 30):
        note(incidents, method=f"a.B/{number}")
    await until(lambda: kept.tries >= 2)
    assert incidents.dropped == 30
    note(incidents, method="a.B/0")
    kept.away = False
    await until(lambda: bool(kept.batches))
    await incidents.close()
    assert sum(each.count for batch in kept.batches for each in batch) == KINDS + 1
    assert incidents.dropped == 0, "it was told"


async def test_where_a_write_takes_long_the_next_one_comes_later(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_LONGEST_PAUSE", 60)
    begun: list[float] = []

    async def slowly(_: Sequence[Noted]) -> Sequence[str]:
        begun.append(time.monotonic())
        await asyncio.sleep(0.05)
        return []

    incidents = Incidents("worker", slowly, version="1")
    incidents.start()
    note(incidents)
    await until(lambda: len(begun) == 1)
    note(incidents)
    await until(lambda: len(begun) == 2, seconds=60)
    await incidents.close()
    assert begun[1] - begun[0] > 0.9


async def test_what_is_left_is_written_as_the_process_ends_and_does_not_keep_it(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "WRITE_EVERY", 60)
    incidents = Incidents("worker", kept.write, version="1")
    incidents.start()
    note(incidents)
    await incidents.close()
    assert len(kept.batches) == 1

    async def never(_: Sequence[Noted]) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(recorder, "LAST_SECONDS", 0.05)
    silent = Incidents("worker", never, version="1")
    silent.start()
    note(silent)
    async with asyncio.timeout(5):
        await silent.close()


async def test_a_failure_that_cannot_be_looked_at_is_dropped_and_raises_nothing(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: BaseException) -> object:
        raise RecursionError

    monkeypatch.setattr(recorder, "shape", broken)
    incidents = Incidents("worker", kept.write, version="1")
    note(incidents)
    assert incidents.dropped == 1
