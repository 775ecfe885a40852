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

_SHOWN: Final = 5
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


def judge(log: Path, evidence: Evidence) -> Verdict:
    """Judges a run.

    Args:
        log: Its history.
        evidence: What it left behind.
    """
    verdict = Verdict()
    calls, names, responses = _answers(verdict, log)
    _check_rows(verdict, evidence.rows, calls, names, responses)
    _check_effects(verdict, evidence)
    _check_late(verdict, evidence)
    return verdict


def _answers(verdict: Verdict, log: Path) -> tuple[set[int], dict[int, set[str]], dict[int, str]]:
    """The calls that were sent, the names that acknowledged them, the responses that answered them."""
    calls: set[int] = set()
    names: dict[int, set[str]] = defaultdict(set)
    responses: dict[int, str] = {}
    refused: list[str] = []
    for entry in history.read(log):
        if isinstance(entry, history.Invoked):
            calls.add(entry.call)
        elif entry.came == "name":
            names[entry.call].add(entry.detail)
        elif entry.came == "response":
            responses[entry.call] = entry.detail
        elif entry.came == "refused":
            refused.append(f"{entry.call}: {entry.detail}")
    acknowledged = names.keys() | responses.keys()
    verdict.calls = len(calls)
    verdict.acknowledged = len(acknowledged)
    verdict.open = len(calls - acknowledged)
    verdict.check("No call is refused", refused)
    return calls, names, responses


def _check_rows(
    verdict: Verdict, rows: Sequence[Row], calls: set[int], names: Mapping[int, set[str]], responses: Mapping[int, str]
) -> None:
    by_call: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_call[row.call].append(row)
    verdict.rows = len(rows)
    verdict.lost_runs = sum(row.lost for row in rows)
    verdict.check("Every acknowledged call has a row", (names.keys() | responses.keys()) - by_call.keys())
    verdict.check("No call has two rows", (call for call, found in by_call.items() if len(found) > 1))
    verdict.check("No row is of a call that was never sent", by_call.keys() - calls)
    verdict.check("Every job has succeeded", (f"{row.name} ({row.error})" for row in rows if row.state != _SUCCEEDED))
    verdict.check(
        "A call's name is its row's",
        (call for call, told in names.items() if call in by_call and told != {row.name for row in by_call[call]}),
    )
    verdict.check(
        "A call's response is its row's",
        (
            call
            for call, told in responses.items()
            for row in by_call.get(call, ())
            if row.receipt is None or told != row.receipt.encode().decode()
        ),
    )
    # A settle that counted although the job was claimed again carries another lease number than the row.
    verdict.check(
        "The result that counts is of the last lease",
        (row.name for row in rows if row.receipt is not None and row.receipt.lease != row.lease),
    )


def _check_effects(verdict: Verdict, evidence: Evidence) -> None:
    verdict.effects = len(evidence.effects)
    verdict.starts = len(evidence.starts)
    results = [row.receipt for row in evidence.rows if row.receipt is not None]
    due = [row.receipt for row in evidence.rows if row.receipt is not None and row.method.endswith("/Run")]
    counts = Counter(evidence.effects)
    verdict.check("Every result has its effect", (receipt for receipt in due if receipt not in counts))
    verdict.check("Every effect has its result", counts.keys() - set(due))
    verdict.check("No effect is there twice", (receipt for receipt, times in counts.items() if times > 1))
    # What the handlers say must be what the rows say, else none of the above means anything.
    verdict.check("Every result is of a run that was noted", set(results) - set(evidence.starts))


def _check_late(verdict: Verdict, evidence: Evidence) -> None:
    """A refusal is right if the row went on without that lease."""
    leases = {row.name: row.lease for row in evidence.rows}
    verdict.late = len(evidence.late)
    verdict.late_of_woken = sum(each.woken for each in evidence.late)
    verdict.check(
        "A settle is refused only where the lease was another's by then",
        (each.name for each in evidence.late if leases[each.name] <= each.lease),
    )
