"""One limit, measured by this process: `python -m tests.bench.limits drain --dsn postgresql://…`. Prints a JSON object."""

from __future__ import annotations

import argparse
import json
from collections.abc import Awaitable, Callable

import uvloop

from tests.bench.limits import measured

MEASURES: dict[str, Callable[[argparse.Namespace], Awaitable[float]]] = {
    "insert": lambda o: measured.insert(o.dsn, connections=o.connections, batch=o.batch, seconds=o.seconds),
    "drain": lambda o: measured.drain(o.dsn, count=o.count, connections=o.connections),
    "commit": lambda o: measured.commit(o.dsn),
    "wakeup": lambda o: measured.wakeup(o.dsn),
    "listen": lambda o: measured.listen(o.dsn, o.count),
}


def main() -> None:
    """Measures what is named."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.limits",
        description=__doc__,
        epilog="Example: python -m tests.bench.limits drain --dsn postgresql:///scratch --count 10000",
    )
    parser.add_argument("name", choices=MEASURES)
    parser.add_argument("--dsn", required=True, help="of a database in which the schema `reference` may be made anew")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--count", type=int, default=100_000)
    options = parser.parse_args()
    print(json.dumps({"value": uvloop.run(_run(options))}))


async def _run(options: argparse.Namespace) -> float:
    return await MEASURES[options.name](options)


if __name__ == "__main__":
    main()
