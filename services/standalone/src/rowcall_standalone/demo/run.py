"""One run of the demo, from start to end. Called by `rowcall_standalone.commands`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rowcall.catalogue.images import load_catalogue
from rowcall_standalone.demo import example
from rowcall_standalone.demo.caller import Caller, CallFailed
from rowcall_standalone.demo.corpus import Corpus, collect
from rowcall_standalone.demo.questions import questions_for
from rowcall_standalone.demo.report import Report
from rowcall_standalone.demo.steps import Steps
from rowcall_standalone.demo.system import SHARDS, running
from rowcall_standalone.errors import StandaloneError
from rowcall_standalone.signals import Signals

_CANARY_SECONDS = 30.0


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
    return await Signals().during(_demo(options))


async def _demo(options: DemoOptions) -> bool:
    started = time.perf_counter()
    report = Report(as_json=options.as_json)
    image = example.image()
    corpus = await asyncio.to_thread(collect, options.docs, options.max_files)
    catalogue = load_catalogue([image])
    report.title(corpus)
    async with running(options.data_dir, image, report, binaries=options.postgres_bin) as system:
        caller = Caller(system.channel, catalogue.methods, corpus.tenant)
        try:
            await system.while_alive(_steps(Steps(caller), corpus, report))
        except CallFailed as error:
            raise StandaloneError(
                f"A call failed that should not have: {error} ({error.operation or 'no operation'}). The logs are "
                f"{system.gateway.log} and {system.worker.log}."
            ) from error
        seconds = time.perf_counter() - started
        report.summed_up(calls=caller.calls, answered=caller.answered, rows=len(caller.operations), seconds=seconds)
    report.further(_commands(options, corpus, image))
    report.end()
    return report.ok


async def _steps(steps: Steps, corpus: Corpus, report: Report) -> None:
    report.started("canary", "an Echo through the queue and back", await steps.canary(_CANARY_SECONDS))
    with report.progress("ingesting", len(corpus.documents)) as advance:
        ingestion = await steps.ingest(corpus.documents, advance)
    report.ingested(corpus, ingestion)
    report.asked([await steps.ask(question) for question in questions_for(corpus)])
    report.outlived(await steps.outlive())
    report.followed(await steps.follow())
    if ingestion.outcomes:
        report.repeated(await steps.repeat(ingestion.outcomes[0]))


def _commands(options: DemoOptions, corpus: Corpus, image: Path) -> dict[str, list[str]]:
    address = "127.0.0.1:50051"
    rowcall = _program("rowcall")
    keep_running = [rowcall, "dev", "--listen", address, "--data-dir", str(options.data_dir), "--shards", str(SHARDS)]
    keep_running += ["--image", str(image), "--servicer", example.SERVICER]
    keep_running += ["--database", f"{example.DSN_VARIABLE}={example.DATABASE}"]
    question = json.dumps({"question": questions_for(corpus)[0].text}) if questions_for(corpus) else "{}"
    submit = [rowcall, "submit", example.ASK, "--address", address, "--tenant", corpus.tenant, "--wait", "5"]
    curl = [
        "buf",
        "curl",
        "--protocol",
        "grpc",
        "--http2-prior-knowledge",
        "--header",
        f"rowcall-tenant: {corpus.tenant}",
    ]
    return {
        "The same system and its data, to stay; it prints a psql command for its shards (select * from rowcall.jobs):": keep_running,
        "Then ask it something, without a line of code:": [*submit, "--json", question],
        "or with any gRPC client; reflection tells it the types:": [
            *curl,
            "--data",
            question,
            f"http://{address}/{example.ASK}",
        ],
        "Canary calls, and what became of a job:": [rowcall, "probe", "--count", "100"],
    }


def _program(name: str) -> str:
    """How to call one of our programs in this shell."""
    beside = Path(sys.executable).with_name(name)
    if shutil.which(name) == str(beside) or not beside.is_file():
        return name
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)
