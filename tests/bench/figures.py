"""What a benchmark found: figures, each beside what it is measured against, kept in build/bench.json."""

from __future__ import annotations

import json
import operator
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

from tests.support.places import ROOT

_COMPARED: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le, "<": operator.lt}

BUILD = ROOT / "build"
PATH = BUILD / "bench.json"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of ours and what it stands beside. Medians over the rounds."""

    name: str
    """Benchmark, and what of it: "submit: 64 in flight"."""
    ours: float
    unit: str
    against: str
    """What it is measured against; empty: nothing, it is only told."""
    theirs: float | None
    ratio: float | None
    """Ours by theirs, the median of the rounds' ratios."""
    goal: str
    """What the ratio, or ours, ought to be, such as ">= 0.8"; empty: it is only told."""
    spread: tuple[float, float] | None
    """Of the rounds: the smallest and the largest ratio, or of ours where there is none."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What was set otherwise than by default, and how it was measured."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of what was measured."""
    machine: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if not self.goal:
            return None
        sign, number = self.goal.split()[:2]
        value = self.ours if self.ratio is None else self.ratio
        return _COMPARED[sign](value, float(number))


def beside(
    name: str,
    ours: Sequence[float],
    unit: str,
    *,
    against: str = "",
    theirs: Sequence[float] = (),
    goal: str = "",
    settings: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> Figure:
    """The figure of some rounds, ours and theirs in the same order."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)] if theirs else []
    spread = ratios or list(ours)
    return Figure(
        name,
        statistics.median(ours),
        unit,
        against,
        statistics.median(theirs) if theirs else None,
        statistics.median(ratios) if ratios else None,
        goal,
        (min(spread), max(spread)),
        settings or {},
        {**our_versions(), **(versions or {})},
        machine(),
    )


@cache
def our_versions() -> Mapping[str, str]:
    """Of what every figure of ours rests on."""
    names = ("rowcall", "grpcio", "protobuf", "psycopg", "uvloop", "protovalidate")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


@cache
def machine() -> str:
    """What this runs on, for people."""
    model = "unknown processor"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        model = platform.processor() or model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {model}, {memory:.0f} GiB, {platform.system()} {platform.release()}"


def kept() -> list[Figure]:
    """What earlier runs have kept."""
    if not PATH.exists():
        return []
    return [
        Figure(**{**each, "spread": None if each["spread"] is None else tuple(each["spread"])})
        for each in json.loads(PATH.read_text())
    ]


def keep(figures: Sequence[Figure]) -> None:
    """Writes figures to build/bench.json, in the place of earlier ones of the same names against the same."""
    news = {(figure.name, figure.against): figure for figure in figures}
    stay = [figure for figure in kept() if (figure.name, figure.against) not in news]
    BUILD.mkdir(exist_ok=True)
    PATH.write_text(json.dumps([asdict(figure) for figure in (*stay, *figures)], indent=2) + "\n")


def number(value: float | None) -> str:
    """A figure as people read it: three digits that count."""
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(figures: Sequence[Figure]) -> str:
    """The figures for people, in Markdown."""
    rows = [
        ("", "ours", "", "against", "theirs", "ratio", "rounds", "goal", ""),
        *(_row(figure) for figure in figures),
    ]
    rows.insert(1, tuple("---" if column in (0, 2, 3, 7, 8) else "---:" for column in range(9)))
    widths = [max(len(row[column]) for row in rows) for column in range(9)]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def _row(figure: Figure) -> tuple[str, ...]:
    return (
        figure.name,
        number(figure.ours),
        figure.unit,
        figure.against,
        number(figure.theirs),
        number(figure.ratio),
        "" if figure.spread is None else f"{number(figure.spread[0])} to {number(figure.spread[1])}",
        figure.goal,
        {True: "reached", False: "NOT REACHED", None: ""}[figure.reached],
    )
