"""Tallies in the text that Prometheus reads (text format 0.0.4), and their names there, by OpenTelemetry's rules for that.

Fifty lines, and no library: each sample is a line, and what makes one for a sample of ours takes longer than the line itself
(docs/adr/0039). The tests read it with Prometheus's own parser.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final

from rowcall.telemetry.tallies import Counter, Gauge, Histogram, Labels, Tally

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_UNITS: Final = {"s": "_seconds", "By": "_bytes"}
"""What a unit adds to a name; of others, such as "{call}", nothing is added."""

_VALUE: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_HELP: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})


def prometheus_name(tally: Tally) -> str:
    """What a tally is called in Prometheus."""
    return _word(tally.name) + _UNITS.get(tally.unit, "") + ("_total" if isinstance(tally, Counter) else "")


def exposition(tallies: Iterable[Tally]) -> str:
    """The text of these tallies. Those of which there is nothing yet are told of all the same."""
    return "".join(f"{line}\n" for tally in tallies for line in _lines(tally))


def _word(name: str) -> str:
    return name.replace(".", "_")


def _lines(tally: Tally) -> Iterator[str]:
    name = prometheus_name(tally)
    yield f"# HELP {name} {tally.description.translate(_HELP)}"
    yield f"# TYPE {name} {tally.kind}"
    names = tuple(map(_word, tally.labels))
    if isinstance(tally, Histogram):
        for labels, found in tally.distributions().items():
            said = _said(names, labels)
            separated = f"{said}," if said else ""
            counts = list(accumulate(found.buckets))
            for bound, count in zip((*map(_number, tally.bounds), "+Inf"), counts, strict=True):
                yield f'{name}_bucket{{{separated}le="{bound}"}} {count}'
            yield f"{name}_sum{{{said}}} {_number(found.total)}"
            yield f"{name}_count{{{said}}} {counts[-1]}"
    elif isinstance(tally, Counter | Gauge):
        for labels, value in tally.values().items():
            yield f"{name}{{{_said(names, labels)}}} {_number(value)}"


def _said(names: tuple[str, ...], labels: Labels) -> str:
    return ",".join(f'{name}="{value.translate(_VALUE)}"' for name, value in zip(names, labels, strict=True))


def _number(value: float) -> str:
    return repr(int(value)) if float(value).is_integer() else repr(float(value))
