"""The load: so many unary calls in flight, from a process of its own. `python -m tests.bench.load --help`.

Prints one JSON object: how many calls ended with which grpc-status, in how many seconds, and how long they took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import resource
import secrets
import sys
import time
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Final

import uvloop

from tests.bench.wire import PLACE, Tally, Wire, template

CONNECTIONS: Final = 4
_TICK: Final = 0.002
"""Seconds between looks at how many calls an open loop is to have begun."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be called, and how much. Times in seconds."""

    address: str
    """HOST:PORT"""
    path: str
    """/package.Service/Method"""
    body: bytes
    """The request; PLACE in it becomes each call's number."""
    metadata: tuple[tuple[str, str], ...] = ()
    """PLACE in it likewise."""
    in_flight: int = 64
    """How many calls are under way at a time; with `rate`, at most."""
    seconds: float | None = None
    """For so long."""
    calls: int | None = None
    """Or so many."""
    rate: float | None = None
    """Calls a second, whatever becomes of those before (an open loop); None: as fast as they are answered."""
    window: float | None = None
    """Tell of each so many seconds too."""
    tokens: Path | None = None
    """A file of bearer tokens, one a line, which calls bring in turn."""
    deadline: float = 60.0
    """That each call has."""


@dataclass(frozen=True, slots=True)
class Times:
    """How long calls took, in milliseconds."""

    calls: int
    p50: float
    p99: float
    p999: float
    longest: float


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a load."""

    statuses: dict[str, int]
    """How many calls ended with which grpc-status; "-1": with none."""
    seconds: float
    """From the first call to the last answer."""
    times: Times
    cpu_us: float
    """The load's own, per call."""
    windows: list[Times]

    @property
    def ok(self) -> int:
        """How many calls succeeded."""
        return self.statuses.get("0", 0)

    @property
    def rate(self) -> float:
        """Successful calls a second."""
        return self.ok / self.seconds


async def run(load: Load) -> Answered:
    """Calls, from this process."""
    return await _Run(load).run()


class _Run:
    """One load under way."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._tally = Tally()
        # Numbers differ between runs, so that no key is used twice.
        self._numbers = count(secrets.randbits(40) << 24)
        self._begun = self._ended = 0
        self._end = math.inf
        self._wires: list[Wire] = []
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> Answered:
        load = self._load
        await self._connect()
        used, began = _cpu(), time.perf_counter()
        if load.seconds is not None:
            self._end = began + load.seconds
        if load.rate is None:
            self._begin(load.in_flight)
        else:
            await self._at_rate(load.rate, began)
        self._look()
        await asyncio.wait_for(self._finished, (load.seconds or 600) + 120)
        seconds, used = time.perf_counter() - began, _cpu() - used
        for wire in self._wires:
            wire.close()
        return Answered(
            {str(code): many for code, many in self._tally.statuses.items()},
            seconds,
            _times(list(self._tally.took)),
            used / max(self._ended, 1) * 1e6,
            [] if load.window is None else _windows(self._tally, began, load.window),
        )

    async def _connect(self) -> None:
        host, _, port = self._load.address.rpartition(":")
        headers = template(self._load.path, self._load.metadata, self._load.address, self._load.deadline)
        tokens = [] if self._load.tokens is None else self._load.tokens.read_bytes().split()
        for _ in range(min(CONNECTIONS, self._load.in_flight)):
            _, wire = await asyncio.get_running_loop().create_connection(
                lambda: Wire(headers, self._load.body, self._tally, self._on_ended, tokens=tokens), host, int(port)
            )
            await wire.ready()
            self._wires.append(wire)

    async def _at_rate(self, rate: float, began: float) -> None:
        """Begins calls when they are due, for as long as there are to be any."""
        while not self._over():
            due = int((time.perf_counter() - began) * rate) - self._begun
            self._begin(min(due, self._load.in_flight - (self._begun - self._ended)))
            await asyncio.sleep(_TICK)

    def _begin(self, many: int) -> None:
        for _ in range(many):
            self._begin_on(self._wires[self._begun % len(self._wires)])
        for wire in self._wires:
            wire.flush()

    def _begin_on(self, wire: Wire) -> None:
        if not (self._over() or wire.lost):
            self._begun += 1
            wire.call(next(self._numbers))

    def _on_ended(self, wire: Wire, many: int) -> None:
        self._ended += many
        if self._load.rate is None:
            for _ in range(many):
                self._begin_on(wire)
        self._look()

    def _look(self) -> None:
        if self._begun == self._ended and self._over() and not self._finished.done():
            self._finished.set_result(None)

    def _over(self) -> bool:
        """Whether no call is begun any more."""
        return (
            (self._load.calls is not None and self._begun >= self._load.calls)
            or time.perf_counter() >= self._end
            or all(wire.lost for wire in self._wires)
        )


def _windows(tally: Tally, began: float, length: float) -> list[Times]:
    found: dict[int, list[float]] = {}
    for sent, took in zip(tally.began, tally.took, strict=True):
        found.setdefault(int((sent - began) / length), []).append(took)
    return [_times(found.get(number, [])) for number in range(max(found, default=-1) + 1)]


def _times(took: list[float]) -> Times:
    took.sort()

    def share(part: float) -> float:
        return took[min(int(len(took) * part), len(took) - 1)] * 1000 if took else 0.0

    return Times(len(took), share(0.5), share(0.99), share(0.999), share(1.0))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def apart(load: Load) -> Answered:
    """`run` in a process of its own. Raises RuntimeError with what it said if it fails."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in _options(load).items()]
    arguments += [f"--metadata={name}={value}" for name, value in load.metadata]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.load",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate(load.body)
    if process.returncode:
        raise RuntimeError(f"the load ended with {process.returncode}: {errors.decode()[-2000:]}")
    return read(out)


def read(text: bytes) -> Answered:
    """What the process has printed."""
    found = json.loads(text)
    found["times"] = Times(**found["times"])
    found["windows"] = [Times(**each) for each in found["windows"]]
    return Answered(**found)


def _options(load: Load) -> dict[str, object]:
    names = ("address", "path", "in_flight", "seconds", "calls", "rate", "window", "tokens", "deadline")
    return {name: value for name in names if (value := getattr(load, name)) is not None}


def main() -> None:
    """The process: options as `Load` has them, the request's bytes on standard input."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.load",
        description=__doc__,
        epilog=f"{PLACE.decode()} in the request or the metadata becomes each call's number. Example: printf '' | "
        "python -m tests.bench.load --address 127.0.0.1:50051 --path /rowcall.probe.v1.ProbeService/Echo "
        "--metadata rowcall-tenant=acme --seconds 3",
    )
    parser.add_argument("--address", required=True, help="HOST:PORT")
    parser.add_argument("--path", required=True, help="/package.Service/Method")
    parser.add_argument("--metadata", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--calls", type=int)
    parser.add_argument("--rate", type=float, help="calls a second; without it, as fast as they are answered")
    parser.add_argument("--window", type=float, help="tell of each so many seconds too")
    parser.add_argument("--tokens", type=Path, help="a file of bearer tokens, one a line, which calls bring in turn")
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds that each call has (60)")
    options = vars(parser.parse_args())
    if options["seconds"] is None and options["calls"] is None:
        parser.error("say --seconds or --calls")
    metadata = tuple(tuple(each.split("=", 1)) for each in options.pop("metadata"))
    load = Load(body=sys.stdin.buffer.read(), metadata=metadata, **options)
    print(json.dumps(asdict(uvloop.run(run(load)))))


if __name__ == "__main__":
    main()
