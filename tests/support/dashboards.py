"""What the dashboards of deploy/grafana ask, filled in as Grafana does it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from tests.support.places import ROOT

FOLDER: Final = ROOT / "deploy" / "grafana"
DASHBOARDS: Final[dict[str, dict[str, Any]]] = {
    path.stem: json.loads(path.read_text("utf-8")) for path in sorted((FOLDER / "dashboards").glob("*.json"))
}
LOGINS: Final = {"sums": "test_reader", "tenants": "test_auditor"}
"""Who reads a source of Postgres, in tests."""

_LABEL_VALUES: Final = re.compile(r"label_values\((.*), (\w+)\)")


class Asked(NamedTuple):
    """A query of a dashboard."""

    where: str
    """Dashboard and panel."""
    source: str
    """The variable that chooses whom it asks."""
    text: str
    """As Grafana would send it, of all shards, queues and tenants, over the last hour; of SQL over the last two days."""
    raw: str
    """As the file has it."""


def of_panels() -> Iterator[Asked]:
    """Those of panels."""
    for name, dashboard in DASHBOARDS.items():
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield _asked(f"{name}: {panel['title']} {target['refId']}", target["datasource"], _text(target))


def beside_panels() -> Iterator[Asked]:
    """Those of variables and marks."""
    for name, dashboard in DASHBOARDS.items():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                query = variable["query"]
                text = query if isinstance(query, str) else query["query"]
                found = _LABEL_VALUES.fullmatch(text)
                text = text if found is None else f"count by ({found[2]}) ({found[1]})"
                yield _asked(f"{name}: variable {variable['name']}", variable["datasource"], text)
        for mark in dashboard["annotations"]["list"]:
            yield _asked(f"{name}: {mark['name']}", mark["datasource"], _text(mark.get("target", mark)))


def _text(target: dict[str, Any]) -> str:
    text: str = target["expr"] if "expr" in target else target["rawSql"]
    return text


def _asked(where: str, datasource: dict[str, str], raw: str) -> Asked:
    source = datasource["uid"].removeprefix("${").removesuffix("}")
    return Asked(where, source, _promql(raw) if source == "prometheus" else _sql(raw), raw)


def _promql(raw: str) -> str:
    return (
        raw.replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$shard", ".*").replace("$queue", ".*")
    )


def _sql(raw: str) -> str:
    now = datetime.now(UTC)
    # Filled in before a test has made what it shows.
    ends = (now - timedelta(days=2), now + timedelta(hours=2))
    since, until = (each.isoformat().replace("+00:00", "Z") for each in ends)
    text = re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 between '{since}' and '{until}'", raw)
    return text.replace("($tenant)", "(select distinct tenant from rowcall.spend_by_day)")
