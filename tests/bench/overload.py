"""`overload` (long): ten times the callers that a gateway is kept busy by, who wait as RetryInfo says; and the bound that keeps it well.

Closed loop, stock clients: each caller calls again when it is answered, or when it was told to. Four tenants with as many callers each, and a
bound on each tenant's calls in flight. Then open loop at twice the rate of the peak: calls come whatever became of those before, each with a deadline.
`python -m tests.bench.overload --help` is the callers alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

import grpc
import grpc.aio
import uvloop
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rowcall.errors import status_of
from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import RunRequest
from rowcall.v1.admission_service_pb2 import Bound, BoundTarget, SetBoundRequest
from rowcall.v1.admission_service_pb2_grpc import AdmissionServiceStub
from rowcall_gateway.edge.transport import MAX_STREAMS
from tests.bench import load
from tests.bench.figures import Figure, beside
from tests.bench.memory import resident
from tests.bench.requests import PAYLOAD
from tests.bench.stage import Stage, say

TENANTS: Final = 4
CALLERS: Final = 32
"""That keep a gateway busy on two cores, the callers on the same ones."""
TIMES: Final = 10
SECONDS: Final = 60.0
CHANNELS: Final = 8
DEADLINE: Final = 2.0
"""Seconds that each call of the open loop has."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What callers have seen."""

    seconds: float
    accepted: int
    refused: int
    other: dict[str, int]
    """Calls that ended otherwise, by code and reason."""
    jain: float
    """Of what tenants were let in: 1 where all got the same."""
    longest: float
    """Seconds that a caller waited between two calls that were let in, at most."""
    retry_p95: float
    """Seconds that RetryInfo said."""
    health_longest: float
    """Seconds that a health check took, at most; each is answered."""

    @property
    def rate(self) -> float:
        """Calls a second that were let in."""
        return self.accepted / self.seconds


@dataclass(frozen=True, slots=True)
class Loose:
    """What became of an open loop."""

    seconds: float
    """For which calls came."""
    sent: int
    statuses: dict[str, int]
    """How many calls ended with which grpc-status; "-1": with none."""
    late: float
    """Seconds behind their deadlines that answers came, p99.9."""
    health_longest: float
    """Seconds that a health check took, at most; each is answered."""

    @property
    def rate(self) -> float:
        """Calls a second that were let in."""
        return self.statuses.get("0", 0) / self.seconds


async def run(stage: Stage) -> list[Figure]:
    """Goodput by the same gateway's own with a tenth of the callers, Jain between tenants, the longest wait, RetryInfo's p95."""
    peaks, overs = [], []
    with stage.system() as system:
        gateway, address = system.gateway()
        system.worker()
        async with grpc.aio.insecure_channel(address) as channel:
            bound = Bound(target=BoundTarget(tenant="tenants/-"), in_flight=CALLERS // TENANTS)
            await AdmissionServiceStub(channel).SetBound(SetBoundRequest(bound=bound), timeout=20)
        await _apart(address, CALLERS, 3)
        before = resident(gateway.process.pid)
        for number in range(stage.rounds):
            peaks.append(await _apart(address, CALLERS, SECONDS / 6))
            overs.append(await _apart(address, CALLERS * TIMES, SECONDS))
            say(
                f"round {number + 1}: {peaks[-1].rate:,.0f}/s, then {overs[-1].rate:,.0f}/s and {overs[-1].refused:,} refused"
            )
        after = await _apart(address, CALLERS, 5)
        wanted = 2 * max(peak.rate for peak in peaks)
        loose = await _loose(address, wanted, SECONDS / 2)
        say(
            f"open loop: {loose.sent / loose.seconds:,.0f}/s of {wanted:,.0f}, {loose.rate:,.0f}/s let in, by grpc-status {loose.statuses}"
        )
        behind = await _apart(address, CALLERS, 5)
        grown = (resident(gateway.process.pid) - before) / 2**20
    settings = {
        **stage.told,
        "callers": f"{CALLERS * TIMES} of {TENANTS} tenants, {CALLERS // TENANTS} calls in flight each",
        "seconds": f"{SECONDS:g}",
    }
    whole = [peak.rate for peak in peaks]
    return [
        beside(
            "overload, goodput",
            [over.rate for over in overs],
            "calls/s",
            against="a tenth of the callers",
            theirs=whole,
            goal=">= 0.8",
            settings=settings,
        ),
        beside("overload, Jain between tenants", [over.jain for over in overs], "", goal=">= 0.9", settings=settings),
        beside(
            "overload, a caller's longest wait", [over.longest for over in overs], "s", goal="<= 5", settings=settings
        ),
        beside("overload, RetryInfo p95", [over.retry_p95 for over in overs], "s", goal="<= 3", settings=settings),
        beside("overload, longest health check", [o.health_longest for o in overs], "s", settings=settings),
        beside(
            "overload, other errors", [float(sum(o.other.values())) for o in overs], "", goal="<= 0", settings=settings
        ),
        beside(
            "overload, goodput in the 5 s behind it",
            [after.rate],
            "calls/s",
            against="the peak",
            theirs=whole,
            settings=settings,
        ),
        beside(
            "open loop, answers behind their deadlines, p99.9",
            [loose.late],
            "s",
            goal="<= 0.1",
            settings={**settings, "rate": f"{loose.sent / loose.seconds:,.0f}/s, each call with {DEADLINE:g} s"},
        ),
        beside("open loop, goodput", [loose.rate], "calls/s", against="the peak", theirs=whole, settings=settings),
        beside("open loop, longest health check", [loose.health_longest], "s", settings=settings),
        beside(
            "open loop, goodput in the 5 s behind it",
            [behind.rate],
            "calls/s",
            against="the peak",
            theirs=whole,
            settings=settings,
        ),
        beside("overload, gateway's memory", [grown], "MiB more", settings=settings),
    ]


async def _loose(address: str, rate: float, seconds: float) -> Loose:
    """Calls that come at a rate, whatever became of those before. Not by gRPC's client: at such rates it is late itself."""
    body = RunRequest(payload=PAYLOAD, response_bytes=100).SerializeToString()
    *answered, health = await asyncio.gather(
        *(
            load.apart(
                load.Load(
                    address,
                    "/rowcall.probe.v1.ProbeService/Run",
                    body,
                    (("rowcall-tenant", f"t{number}"), ("prefer", "wait=0")),
                    # What a gateway takes on as many connections.
                    in_flight=load.CONNECTIONS * MAX_STREAMS,
                    seconds=seconds,
                    rate=rate / TENANTS,
                    deadline=DEADLINE,
                )
            )
            for number in range(TENANTS)
        ),
        _apart(address, 0, seconds),
    )
    loads = cast("list[load.Answered]", answered)
    statuses = sum((Counter(each.statuses) for each in loads), Counter())
    return Loose(
        seconds,
        statuses.total(),
        dict(statuses),
        max(0.0, *(each.times.p999 / 1000 - DEADLINE for each in loads)),
        cast("Seen", health).health_longest,
    )


async def _apart(address: str, callers: int, seconds: float) -> Seen:
    """Callers in a process of their own. Raises RuntimeError with what it said if it fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.overload",
        *(f"--address={address}", f"--callers={callers}", f"--seconds={seconds}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the callers ended with {process.returncode}: {errors.decode()[-2000:]}")
    return Seen(**json.loads(out))


class _Callers:
    """So many callers, and what they see."""

    def __init__(self, seconds: float) -> None:
        self.began = time.monotonic()
        self.end = self.began + seconds
        self.accepted: Counter[str] = Counter()
        self.refused = 0
        self.other: Counter[str] = Counter()
        self.longest = 0.0
        self.delays: list[float] = []
        self.health = 0.0

    async def call(self, stub: probe_pb2_grpc.ProbeServiceAsyncStub, tenant: str) -> None:
        """One caller, in a closed loop."""
        metadata = (("rowcall-tenant", tenant), ("prefer", "wait=0"))
        # Who begins does not begin with all the others.
        await asyncio.sleep(random.uniform(0, 0.5))
        last = time.monotonic()
        while time.monotonic() < self.end:
            try:
                await stub.Run(RunRequest(payload=PAYLOAD, response_bytes=100), timeout=10, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                delay = _delay(error)
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or delay is None:
                    self.other[_said(error)] += 1
                    await asyncio.sleep(1)
                    continue
                self.refused += 1
                self.delays.append(delay)
                await asyncio.sleep(min(delay, max(self.end - time.monotonic(), 0)))
            else:
                now = time.monotonic()
                self.accepted[tenant] += 1
                self.longest = max(self.longest, now - last)
                last = now
        self.longest = max(self.longest, time.monotonic() - last)

    async def look(self, channel: grpc.aio.Channel) -> None:
        """Asks for health five times a second; raises where it is not answered."""
        stub: Any = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < self.end:
            began = time.monotonic()
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
            self.health = max(self.health, time.monotonic() - began)
            await asyncio.sleep(0.2)


def _said(error: grpc.aio.AioRpcError) -> str:
    """Code and reason; a code alone is gRPC's own."""
    found = ErrorInfo()
    reasons = [found.reason for detail in status_of(error).details if detail.Unpack(found)]
    return " ".join([error.code().name, *reasons])


def _delay(error: grpc.aio.AioRpcError) -> float | None:
    found = RetryInfo()
    for detail in status_of(error).details:
        if detail.Unpack(found):
            return found.retry_delay.ToTimedelta().total_seconds()
    return None


async def _see(address: str, callers: int, seconds: float) -> Seen:
    channels = [
        grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) for _ in range(CHANNELS)
    ]
    seen = _Callers(seconds)
    stubs: list[probe_pb2_grpc.ProbeServiceAsyncStub] = [probe_pb2_grpc.ProbeServiceStub(each) for each in channels]
    calls = [seen.call(stubs[number % CHANNELS], f"t{number % TENANTS}") for number in range(callers)]
    await asyncio.gather(seen.look(channels[0]), *calls)
    for channel in channels:
        await channel.close()
    shares = [seen.accepted[f"t{number}"] for number in range(TENANTS)]
    delays = sorted(seen.delays)
    return Seen(
        seconds=time.monotonic() - seen.began,
        accepted=sum(shares),
        refused=seen.refused,
        other=dict(seen.other),
        # R. Jain, D. Chiu, W. Hawe: A Quantitative Measure of Fairness, DEC-TR-301 (1984).
        jain=sum(shares) ** 2 / max(len(shares) * sum(share**2 for share in shares), 1),
        longest=seen.longest,
        retry_p95=delays[int(len(delays) * 0.95)] if delays else 0.0,
        health_longest=seen.health,
    )


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.overload",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python -m tests.bench.overload --address 127.0.0.1:50051 --callers 320 --seconds 60",
    )
    parser.add_argument("--address", required=True, help="HOST:PORT")
    parser.add_argument("--callers", type=int, default=CALLERS * TIMES, help="how many (320)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for how long (60)")
    options = parser.parse_args()
    print(json.dumps(asdict(uvloop.run(_see(options.address, options.callers, options.seconds)))))


if __name__ == "__main__":
    main()
