"""`make bench`: measures limits, other queues and ourselves in turn, and keeps what it found.

Prints a table, writes build/bench.json and build/bench.svg. Figures, not verdicts: a goal that is not reached is shown and
is no failure. It fails (exit code 1) where rows, jobs and answers are not the same number, where a benchmark breaks, and
where another queue could not be installed (one whose toolchain is not here is left out, and told); usage errors are exit code 2.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Final

from tests.bench import figures, layers, plot, rivals
from tests.bench.stage import Stage, say


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One of them; its module has the same name."""

    name: str
    minutes: float
    """How long it takes, about, on two cores."""
    is_long: bool = False

    @property
    def about(self) -> str:
        """What it measures."""
        return (import_module(f"tests.bench.{self.name}").__doc__ or "").split(": ", 1)[1].splitlines()[0]

    @property
    def run(self) -> Callable[[Stage], Awaitable[list[figures.Figure]]]:
        """Measures."""
        found: Callable[[Stage], Awaitable[list[figures.Figure]]] = import_module(f"tests.bench.{self.name}").run
        return found


BENCHMARKS: Final = (
    Benchmark("submit", 0.7),
    Benchmark("batch", 1.5),
    Benchmark("drain", 8),
    Benchmark("call", 1.3),
    Benchmark("start", 3),
    Benchmark("processes", 2.5),
    Benchmark("wal", 1.5),
    Benchmark("memory", 1.5),
    Benchmark("snapshot", 4, is_long=True),
    Benchmark("held", 42, is_long=True),
    Benchmark("upkeep", 21, is_long=True),
    Benchmark("history", 25, is_long=True),
    Benchmark("tail", 31, is_long=True),
    Benchmark("overload", 4, is_long=True),
    Benchmark("actions", 2, is_long=True),
    Benchmark("bounded", 1, is_long=True),
    Benchmark("cost", 7, is_long=True),
    Benchmark("telemetry", 5, is_long=True),
)


def main() -> int:
    """Runs what is asked for; the exit code."""
    options = _options()
    if options.list:
        for each in BENCHMARKS:
            print(f"{each.name:10} {each.minutes:4g} min {'long' if each.is_long else '    '}  {each.about}")
        return 0
    if options.only:
        chosen = [each for each in BENCHMARKS if each.name in options.only]
    else:
        chosen = [each for each in BENCHMARKS if each.is_long is options.long]
    stage = Stage(options.rounds, options.seconds, tuple(options.layers), dict(options.settings))
    print(f"{figures.machine()}; about {sum(each.minutes for each in chosen):.0f} minutes", flush=True)
    found, broken = asyncio.run(_measure(chosen, stage))
    plot.draw(figures.kept())
    if options.json:
        print(json.dumps([asdict(each) for each in found], indent=2))
    else:
        print(f"\n{figures.table(found)}\n\nkept in {figures.PATH}, drawn in {plot.PATH}")
    for name, why in rivals.left_out.items():
        print(f"left out: {name}: {why}", file=sys.stderr)
    for name, why in {**rivals.missing, **broken}.items():
        print(f"NOT MEASURED: {name}: {why}", file=sys.stderr)
    return 1 if broken or rivals.missing else 0


async def _measure(chosen: list[Benchmark], stage: Stage) -> tuple[list[figures.Figure], dict[str, str]]:
    found: list[figures.Figure] = []
    broken: dict[str, str] = {}
    for number, each in enumerate(chosen, start=1):
        print(f"\n{each.name} ({number} of {len(chosen)}, about {each.minutes:g} min): {each.about}", flush=True)
        began = time.monotonic()
        try:
            news = await each.run(stage)
        except Exception as error:  # noqa: BLE001 - the others are measured all the same; the end tells
            traceback.print_exc()
            broken[each.name] = f"{type(error).__name__}: {error}"
            continue
        figures.keep(news)
        found += news
        say(f"{each.name}: done in {(time.monotonic() - began) / 60:.1f} min")
        print(figures.table(news), flush=True)
    return found, broken


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: make bench ONLY=drain,submit; python -m tests.bench --only submit --only call --rounds 5 --with tracing",
    )
    parser.add_argument("--list", action="store_true", help="name the benchmarks and end")
    parser.add_argument(
        "--only",
        action="extend",
        type=_benchmarks,
        metavar="NAME[,NAME]",
        help="run these; may be repeated",
    )
    parser.add_argument("--long", action="store_true", help="run those that take long, and not the others")
    parser.add_argument("--rounds", type=_positive, default=3, help="how often each is measured, in turn (3)")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long a load lasts (4)")
    parser.add_argument(
        "--with",
        dest="layers",
        action="append",
        type=_layer,
        default=[],
        metavar="LAYER",
        # argparse formats help: a per cent sign is written twice.
        help=("switch on: " + "; ".join(f"{each.name} ({each.about})" for each in layers.LAYERS if each.built)).replace(
            "%", "%%"
        ),
    )
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        type=_setting,
        default=[],
        metavar="ROWCALL_NAME=VALUE",
        help="a setting of gateways and workers beyond the defaults",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON at the end, not as a table")
    return parser.parse_args()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("is below 1")
    return value


def _benchmarks(text: str) -> list[str]:
    known = [each.name for each in BENCHMARKS]
    wanted = text.split(",")
    for name in wanted:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is no benchmark; there are {', '.join(known)}")
    return wanted


def _layer(name: str) -> layers.Layer:
    try:
        return layers.named(name)
    except layers.UnknownLayer as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _setting(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name.startswith(("ROWCALL_", "OTEL_")):
        raise argparse.ArgumentTypeError(f"{text!r} is not ROWCALL_NAME=VALUE or OTEL_NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
