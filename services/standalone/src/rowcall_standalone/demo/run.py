"""One run of the demo, from start to end. Called by `rowcall_standalone.commands`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rowcall.catalogue.images import load_catalogue
from rowcall_standalone.demo import example
from rowcall_standalone.demo.caller import Caller, CallFailed
from rowcall_standalone.demo.corpus import Corpus, collect
from rowcall_standalone.demo.further import hints
from rowcall_standalone.demo.questions import Question, questions_for
from rowcall_standalone.demo.report import Report
from rowcall_standalone.demo.steps import Steps
from rowcall_standalone.demo.system import SHARDS, running
from rowcall_standalone.errors import StandaloneError
from rowcall_standalone.signals import Signals

_CANARY_SECONDS = 30.0
_STOPPED_WITHIN = timedelta(seconds=30)
"""A signal ends it: gateway and worker within their grace or killed, Postgres after them."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What `rowcall demo` was asked for."""

    docs: Path
    """The directory whose text files are ingested."""
    data_dir: Path
    """Kept between runs: the next one is warm."""
    max_files: int
    """How many files are ingested at most."""
    as_json: bool
    """Whether the result is printed as JSON."""
    postgres_bin: Path | None
    """A directory with other Postgres binaries."""


async def demo(options: DemoOptions) -> bool:
    """Run the demo; returns whether everything that was expected happened.

    Raises StandaloneError when it cannot be run, Interrupted when a signal ended it.
    """
    return await Signals(_STOPPED_WITHIN).during(_demo(options))


async def _demo(options: DemoOptions) -> bool:
    started = time.perf_counter()
    report = Report(as_json=options.as_json)
    image = example.image()
    corpus = await asyncio.to_thread(collect, options.docs, options.max_files)
    catalogue = load_catalogue([image])
    report.title(corpus)
    questions = questions_for(corpus)
    async with running(options.data_dir, image, report, binaries=options.postgres_bin) as system:
        caller = Caller(system.channel, catalogue.methods, corpus.tenant)
        try:
            operation = await system.while_alive(_steps(Steps(caller), corpus, questions, report))
        except CallFailed as error:
            raise StandaloneError(
                f"A call failed that should not have: {error} ({error.operation or 'no operation'}). The logs are "
                f"{system.gateway.log} and {system.worker.log}."
            ) from error
        seconds = time.perf_counter() - started
        report.summed_up(calls=caller.calls, answered=caller.answered, rows=len(caller.operations), seconds=seconds)
    report.further(
        hints(
            data_dir=options.data_dir,
            shards=SHARDS,
            image=image,
            tenant=corpus.tenant,
            question=questions[0].text if questions else "",
            operation=operation,
        )
    )
    report.end()
    return report.ok


async def _steps(steps: Steps, corpus: Corpus, questions: Sequence[Question], report: Report) -> str:
    """All of them; returns the name of an operation to look at."""
    report.started("canary", "an Echo through the queue and back", await steps.canary(_CANARY_SECONDS))
    with report.progress("ingesting", len(corpus.documents)) as advance:
        ingestion = await steps.ingest(corpus.documents, advance)
    report.ingested(corpus, ingestion)
    report.asked([await steps.ask(question) for question in questions])
    report.outlived(await steps.outlive())
    followed = await steps.follow()
    report.followed(followed)
    if ingestion.outcomes:
        report.repeated(await steps.repeat(ingestion.outcomes[0]))
    indexed = sum(outcome.changed for outcome in ingestion.outcomes)
    report.cost(await steps.costs(indexed + len(questions)))
    return followed.operation
