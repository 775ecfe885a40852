"""What a query of Prometheus asks for: its metrics, and the labels that it goes by. No parser: that is promtool's part."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from rowcall.telemetry import metrics
from rowcall.telemetry.exposition import prometheus_name
from rowcall.telemetry.process import process_tallies
from rowcall.telemetry.tallies import Histogram, all_of

OF_PROMETHEUS: Final[Mapping[str, frozenset[str]]] = {
    "up": frozenset(),
    "ALERTS": frozenset({"alertname", "alertstate", "severity"}),
}
"""What Prometheus tells itself."""

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR: Final = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")
_NAME: Final = re.compile(r"(?<![\w:.$])[a-zA-Z_:][\w:]*(?![\w:]*\s*\()")
_WORDS: Final = frozenset({"and", "or", "unless", "offset", "bool", "by", "without", "on", "ignoring", "inf", "nan"})


def declared() -> dict[str, frozenset[str]]:
    """Every name that a scrape of ours has, with its labels."""
    found: dict[str, frozenset[str]] = {}
    for tally in (*all_of(vars(metrics)), *process_tallies()):
        name, labels = prometheus_name(tally), frozenset(label.replace(".", "_") for label in tally.labels)
        if isinstance(tally, Histogram):
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            found[name] = labels
    return found


def names(query: str) -> set[str]:
    """The metrics that a query asks for, recorded ones among them."""
    bare = re.sub(r"\[[^\]]*\]|\{[^}]*\}", " ", _GROUPING.sub(" ", _STRING.sub("", query)))
    return {each for each in _NAME.findall(bare) if each.lower() not in _WORDS}


def matched(query: str) -> Iterator[tuple[str, str]]:
    """Each metric, with each label that it is chosen by."""
    for name, matchers in _SELECTOR.findall(_STRING.sub('""', query)):
        yield from ((name, label) for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))


def grouped(query: str) -> set[str]:
    """The labels that a query adds up by, or joins on."""
    lists = _GROUPING.findall(_STRING.sub("", query))
    return {label.strip() for each in lists for label in each.split(",") if label.strip()}
