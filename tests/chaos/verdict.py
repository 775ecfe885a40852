"""The verdict on a run: the history of calls held against the rows, the effects and what the workers said of late results.

It knows nothing of the load and the faults; it reads what they left behind. The model is Jepsen's total queue: what was
acknowledged comes out, once; what was never asked for does not; of what is unknown either may be.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rowcall.v1.job_pb2 import JobState
from tests.chaos import history
from tests.chaos.evidence import Evidence, Row
from tests.chaos.receipts import Receipt

_SHOWN: Final = 5
_ANSWERS: Final = 3
"""How many answers of a call are shown, the last ones."""
_STATES: Final[Mapping[int, str]] = {number: name.removeprefix("JOB_STATE_") for name, number in JobState.items()}
_SUCCEEDED: Final = int(JobState.JOB_STATE_SUCCEEDED)


@dataclass(slots=True)
class Verdict:
    """What a run came to."""

    calls: int = 0
    """Calls that were sent."""
    acknowledged: int = 0
    """Calls that were answered with a response or a name."""
    open: int = 0
    """Calls of which their callers never learned whether there is a job."""
    rows: int = 0
    """Jobs in the shards."""
    effects: int = 0
    """Effects of jobs' own transactions."""
    starts: int = 0
    """Runs of handlers."""
    lost_runs: int = 0
    """Runs that were lost with their worker, as the rows count them."""
    late: int = 0
    """Settles that shards refused as stale."""
    late_of_woken: int = 0
    """Those of them from processes that were stopped and went on."""
    problems: list[str] = field(default_factory=list)
    """Broken promises, with examples."""

    def check(self, promise: str, broken: Iterable[object]) -> None:
        """Notes a promise as broken if anything breaks it."""
        found = list(broken)
        if found:
            shown = ", ".join(str(each) for each in found[:_SHOWN])
            self.problems.append(f"{promise}: not so of {len(found)}, such as {shown}")

    def told(self) -> Sequence[str]:
        """The report, a line a figure."""
        return [
            f"  {self.calls} calls: {self.acknowledged} acknowledged, {self.open} left open; {self.rows} jobs",
            f"  {self.starts} runs of handlers, {self.lost_runs} lost with their worker; {self.effects} effects",
            f"  {self.late} stale settles refused, {self.late_of_woken} of them of processes that were stopped and woke up",
        ]


@dataclass(frozen=True, slots=True)
class _Answers:
    """What callers know."""

    calls: set[int] = field(default_factory=set)
    """The calls that were sent."""
    names: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The names that acknowledged them."""
    responses: dict[int, str] = field(default_factory=dict)
    """The responses that answered them."""


class _Tales:
    """What is known of a call, for whoever reads of a broken promise: what it was answered and what its rows say."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._answers: dict[int, list[str]] = defaultdict(list)
        self._rows: dict[int, list[Row]] = defaultdict(list)
        self._calls: dict[str, int] = {}
        for row in rows:
            self._rows[row.call].append(row)
            self._calls[row.name] = row.call

    def note(self, outcome: history.Outcome) -> None:
        """Adds what came of an attempt."""
        self._answers[outcome.call].append(f"{outcome.came} {outcome.detail}")

    def of(self, call: int) -> str:
        """The call's number, its last answers, its rows with what they failed with."""
        answers = self._answers[call][-_ANSWERS:] or ["never answered"]
        rows = [
            f"{row.name} {_STATES[row.state]} lease {row.lease}, lost {row.lost}{f', {row.error}' if row.error else ''}"
            for row in self._rows[call]
        ] or ["no row"]
        return f"{call} ({'; '.join(answers)} | {'; '.join(rows)})"

    def of_row(self, name: str) -> str:
        """The same of the call that an operation's name is of."""
        return f"{name} of call {self.of(self._calls[name])}" if name in self._calls else f"{name}, no row"

    def of_receipt(self, receipt: Receipt) -> str:
        """The same of the call that a run of a handler was for."""
        return f"{receipt} of call {self.of(receipt.call)}"


def judge(log: Path, evidence: Evidence) -> Verdict:
    """Judges a run.

    Args:
        log: Its history.
        evidence: What it left behind.
    """
    verdict = Verdict()
    tales = _Tales(evidence.rows)
    answers = _answers(verdict, log, tales)
    _check_rows(verdict, evidence.rows, answers, tales)
    _check_effects(verdict, evidence, tales)
    _check_late(verdict, evidence, tales)
    return verdict


def _answers(verdict: Verdict, log: Path, tales: _Tales) -> _Answers:
    """Reads the history."""
    found = _Answers()
    refused: list[int] = []
    for entry in history.read(log):
        if isinstance(entry, history.Invoked):
            found.calls.add(entry.call)
            continue
        tales.note(entry)
        if entry.came == "name":
            found.names[entry.call].add(entry.detail)
        elif entry.came == "response":
            found.responses[entry.call] = entry.detail
        elif entry.came == "refused":
            refused.append(entry.call)
    acknowledged = found.names.keys() | found.responses.keys()
    verdict.calls = len(found.calls)
    verdict.acknowledged = len(acknowledged)
    verdict.open = len(found.calls - acknowledged)
    verdict.check("No call is refused", map(tales.of, refused))
    return found


def _check_rows(verdict: Verdict, rows: Sequence[Row], answers: _Answers, tales: _Tales) -> None:
    names, responses = answers.names, answers.responses
    by_call: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_call[row.call].append(row)
    verdict.rows = len(rows)
    verdict.lost_runs = sum(row.lost for row in rows)
    verdict.check(
        "Every acknowledged call has a row", map(tales.of, (names.keys() | responses.keys()) - by_call.keys())
    )
    verdict.check("No call has two rows", (tales.of(call) for call, found in by_call.items() if len(found) > 1))
    verdict.check("No row is of a call that was never sent", map(tales.of, by_call.keys() - answers.calls))
    verdict.check("Every job has succeeded", (tales.of_row(row.name) for row in rows if row.state != _SUCCEEDED))
    verdict.check(
        "A call's name is its row's",
        (
            tales.of(call)
            for call, told in names.items()
            if call in by_call and told != {row.name for row in by_call[call]}
        ),
    )
    verdict.check(
        "A call's response is its row's",
        (
            tales.of(call)
            for call, told in responses.items()
            for row in by_call.get(call, ())
            if row.receipt is None or told != row.receipt.encode().decode()
        ),
    )
    # A settle that counted although the job was claimed again carries another lease number than the row.
    verdict.check(
        "The result that counts is of the last lease",
        (tales.of_row(row.name) for row in rows if row.receipt is not None and row.receipt.lease != row.lease),
    )


def _check_effects(verdict: Verdict, evidence: Evidence, tales: _Tales) -> None:
    verdict.effects = len(evidence.effects)
    verdict.starts = len(evidence.starts)
    results = [row.receipt for row in evidence.rows if row.receipt is not None]
    due = [row.receipt for row in evidence.rows if row.receipt is not None and row.method.endswith("/Run")]
    counts = Counter(evidence.effects)
    told = tales.of_receipt
    verdict.check("Every result has its effect", (told(receipt) for receipt in due if receipt not in counts))
    verdict.check("Every effect has its result", map(told, counts.keys() - set(due)))
    verdict.check("No effect is there twice", (told(receipt) for receipt, times in counts.items() if times > 1))
    # What the handlers say must be what the rows say, else none of the above means anything.
    verdict.check("Every result is of a run that was noted", map(told, set(results) - set(evidence.starts)))


def _check_late(verdict: Verdict, evidence: Evidence, tales: _Tales) -> None:
    """A refusal is right if the row went on without that lease."""
    leases = {row.name: row.lease for row in evidence.rows}
    verdict.late = len(evidence.late)
    verdict.late_of_woken = sum(each.woken for each in evidence.late)
    verdict.check(
        "A settle is refused only where the lease was another's by then",
        (
            f"lease {each.lease} of {tales.of_row(each.name)}"
            for each in evidence.late
            if leases[each.name] <= each.lease
        ),
    )
