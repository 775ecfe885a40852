"""What the demo tells: to a person while it runs and at its end, and to a script as one JSON object. Called by `run`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from rowcall_standalone.demo.corpus import Corpus
from rowcall_standalone.demo.further import Hint
from rowcall_standalone.demo.steps import IN_FLIGHT, Asked, Costs, Followed, Ingestion, Outlived, Repeated

_WIDTH_ELSEWHERE = 110
"""Of the text where no terminal says how wide it is."""
_ANSWER_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Check:
    """Something the run promised to show."""

    promise: str
    kept: bool


class Report:
    """Tells as the run goes on. With `as_json` everything for people goes to stderr, and stdout has the one object."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        stream = sys.stderr if as_json else sys.stdout
        width = None if stream.isatty() else _WIDTH_ELSEWHERE
        self._console = Console(file=stream, width=width, highlight=False)
        self._result: dict[str, object] = {}
        self._checks: list[Check] = []

    @property
    def ok(self) -> bool:
        """Whether everything that was expected happened."""
        return all(check.kept for check in self._checks)

    def title(self, corpus: Corpus) -> None:
        """What is going to happen."""
        self._heading("Rowcall: a typed gRPC call, kept as a Postgres row until it is answered.")
        self._line(
            f"The documents example on {len(corpus.documents)} text files of {corpus.root}: each goes in as a typed call, "
            "then questions over them are asked."
        )
        if corpus.left_out:
            self._line("Left out: " + ", ".join(f"{count} {reason}" for reason, count in corpus.left_out.items()) + ".")

    def started(self, what: str, about: str, seconds: float) -> None:
        """A part of the system is up."""
        self._line(f"{what:<9} {about}", f"{seconds:.2f} s")
        times = self._result.setdefault("started_seconds", {})
        if isinstance(times, dict):
            times[what.lower()] = round(seconds, 3)

    def note(self, text: str) -> None:
        """Something by the way."""
        self._line(text, style="dim")

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar on a terminal, elsewhere a line now and then; call what it gives after each piece of work."""
        if self._console.is_terminal:
            columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            with Progress(*columns, console=self._console, transient=True) as bar:
                task = bar.add_task(title, total=total)
                yield lambda: bar.advance(task)
            return
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            if done == total or done * 4 // total > (done - 1) * 4 // total:
                self._line(f"{title}: {done} of {total}")

        yield advance

    def ingested(self, corpus: Corpus, ingestion: Ingestion) -> None:
        """What became of the documents."""
        outcomes = ingestion.outcomes
        in_wait = sum(outcome.within_wait for outcome in outcomes)
        changed = sum(outcome.changed for outcome in outcomes)
        chunks = sum(outcome.chunks for outcome in outcomes)
        rate = len(outcomes) / ingestion.seconds
        self._heading("IngestDocument, answered with an operation")
        self._line(
            f"{len(outcomes)} documents in {ingestion.seconds:.1f} s ({rate:.0f} a second, {IN_FLIGHT} in flight): "
            f"{chunks} chunks; {changed} changed, {len(outcomes) - changed} were indexed already."
        )
        self._line(
            f"{in_wait} calls were answered within their wait with the finished operation, {len(outcomes) - in_wait} with "
            "one that was then awaited."
        )
        for path, error in ingestion.failures:
            self._line(f"not ingested: {path}: {error}", style="red")
        self._promise("every document is ingested", not ingestion.failures)
        self._result["documents"] = {
            "root": str(corpus.root),
            "tenant": corpus.tenant,
            "ingested": len(outcomes),
            "failed": dict(ingestion.failures),
            "left_out": dict(corpus.left_out),
            "bytes": sum(len(document.content) for document in corpus.documents),
            "chunks": chunks,
            "changed": changed,
            "answered_within_wait": in_wait,
            "awaited": len(outcomes) - in_wait,
            "seconds": round(ingestion.seconds, 3),
        }

    def asked(self, answers: Sequence[Asked]) -> None:
        """The answers with their sources."""
        self._heading("AskDocuments, answered with the response itself")
        for number, asked in enumerate(answers, 1):
            self._line(f"{number}. {asked.question.text}", f"{asked.seconds * 1e3:.0f} ms", style="bold")
            self._line(_shortened(asked.answer), indent=5)
            for place in asked.places:
                mark = "→" if place.path == asked.question.expected else " "
                lines = f"{place.path}:{place.first_line}-{place.last_line}"
                self._line(f"{mark} {lines}", f"{place.score:.2f}", indent=5, style="cyan")
            if not asked.as_promised:
                self._line(f"expected among these: {asked.question.expected}", indent=5, style="red")
        answered = bool(answers) and all(asked.as_promised for asked in answers)
        self._promise("every question is answered from the right documents", answered)
        self._result["answers"] = [
            {
                "question": asked.question.text,
                "answer": asked.answer,
                "expected": asked.question.expected,
                "as_promised": asked.as_promised,
                "seconds": round(asked.seconds, 4),
                "sources": [
                    {
                        "path": place.path,
                        "first_line": place.first_line,
                        "last_line": place.last_line,
                        "score": round(place.score, 4),
                        "snippet": place.snippet,
                    }
                    for place in asked.places
                ],
            }
            for asked in answers
        ]

    def outlived(self, result: Outlived) -> None:
        """The call that outlived its deadline."""
        deadline, work = result.deadline.total_seconds(), result.work.total_seconds()
        self._heading("A call that outlived its deadline")
        self._line(f"Await, {work:g} s of work, a deadline of {deadline:g} s: the call ended with {result.reason},")
        self._line(f"the job went on as {result.operation}.")
        self._line(
            f"The same call with the same key: answered after {result.joined_seconds:.2f} s more, by the same job; "
            f"its handler ran {_times(result.attempts)}."
        )
        self._promise("a call that outlives its deadline is joined by its key, having run once", result.as_promised)
        self._result["outlived"] = {
            "key": result.key,
            "reason": result.reason,
            "operation": result.operation,
            "joined_operation": result.joined_operation,
            "joined_seconds": round(result.joined_seconds, 3),
            "attempts": result.attempts,
            "as_promised": result.as_promised,
        }

    def followed(self, result: Followed) -> None:
        """The operation that was followed."""
        self._heading("An operation, followed to its end")
        self._line(
            f"Run with prefer: wait=0, returned after {result.submitted_seconds * 1e3:.0f} ms: {result.operation}"
        )
        self._line(" → ".join(f"{state} at {seconds:.2f} s" for seconds, state in result.sightings))
        self._promise("an operation is seen unfinished, awaited and answered", result.as_promised)
        self._result["followed"] = {
            "operation": result.operation,
            "sightings": [{"seconds": round(seconds, 3), "state": state} for seconds, state in result.sightings],
            "waits": result.waits,
            "as_promised": result.as_promised,
        }

    def repeated(self, result: Repeated) -> None:
        """The document that was ingested twice."""
        self._heading("The same document twice")
        self._line(
            f"{result.path}, ingested again by a call of its own: "
            + ("changed=false, the same document, nothing written." if result.as_promised else "it was changed.")
        )
        self._promise("a document ingested again without a change changes nothing", result.as_promised)
        self._result["repeated"] = {
            "path": result.path,
            "first_operation": result.first_operation,
            "operation": result.operation,
            "changed": result.changed,
            "as_promised": result.as_promised,
        }

    def cost(self, costs: Costs) -> None:
        """What the handlers' calls of models cost."""
        self._heading("What it cost")
        for each in costs.models:
            self._line(
                f"{each.model}: {each.calls} calls, {each.tokens} words, {each.amount or 'nobody knows how much'} {each.currency} "
                "in this demo and those before it, by the example's prices.toml."
            )
        self._promise("what each call of a model cost is in the books", costs.as_promised)
        self._result["costs"] = [
            {
                "model": each.model,
                "calls": each.calls,
                "input_tokens": each.tokens,
                "cost": each.amount,
                "currency": each.currency,
            }
            for each in costs.models
        ]

    def summed_up(self, *, calls: int, answered: int, rows: int, seconds: float) -> None:
        """The run in a line, and what was not as expected."""
        self._heading("In all")
        self._line(
            f"{calls} calls, {rows} rows: {answered} calls were answered within their wait, the answers of "
            f"{calls - answered} were fetched later. {seconds:.1f} s from the start."
        )
        for check in self._checks:
            if not check.kept:
                self._line(f"NOT AS EXPECTED: {check.promise}", style="bold red")
        self._result["calls"] = {"total": calls, "rows": rows, "answered_within_wait": answered}
        self._result["seconds"] = round(seconds, 3)

    def further(self, hints: Sequence[Hint]) -> None:
        """How to look further."""
        self._heading("Look further")
        for hint in hints:
            self._line(hint.purpose)
            # Unwrapped: to be copied whole.
            self._console.print(Text(f"    {hint.command}", style="green"), soft_wrap=True)

    def end(self) -> None:
        """Nothing more comes: the JSON, if it was asked for."""
        if self._as_json:
            checks = [{"promise": check.promise, "kept": check.kept} for check in self._checks]
            json.dump({"ok": self.ok, "checks": checks, **self._result}, sys.stdout, indent=2, ensure_ascii=False)
            sys.stdout.write("\n")
            sys.stdout.flush()

    def _promise(self, promise: str, kept: bool) -> None:
        self._checks.append(Check(promise, kept))

    def _heading(self, text: str) -> None:
        self._console.print()
        self._console.print(Text(text, style="bold"))

    def _line(self, text: str, right: str = "", *, indent: int = 2, style: str = "") -> None:
        line = Text(text, style=style)
        if right:
            line.append(f"  {right}", style="dim")
        self._console.print(Padding(line, (0, 0, 0, indent), expand=False))


def _shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _ANSWER_CHARACTERS else flat[: _ANSWER_CHARACTERS - 1] + "…"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
