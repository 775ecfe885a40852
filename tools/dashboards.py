"""Makes Grafana's dashboards of deploy/grafana/dashboards.toml, or says where they differ (`make generate`, `make check`).

The file has what each panel shows and asks; what Grafana wants around it, the same for all, is made here: places, data sources chosen by
variables, marks of deployments, ids.
"""

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = ROOT / "deploy" / "grafana" / "dashboards.toml"
MADE: Final = ROOT / "deploy" / "grafana" / "dashboards"

Json = dict[str, Any]

WIDTH: Final = 24
HEIGHT: Final = 8
SCHEMA: Final = 39
"""Grafana 11's; newer ones read it."""

POSTGRES: Final = "grafana-postgresql-datasource"
SOURCES: Final[Mapping[str, Json]] = {
    "prometheus": {"type": "prometheus", "label": "Prometheus", "regex": ""},
    "sums": {"type": POSTGRES, "label": "Shard", "regex": "/^Rowcall .* sums$/"},
    "tenants": {"type": POSTGRES, "label": "Shard", "regex": "/^Rowcall .* tenants$/"},
}
"""What a panel can ask, by the name of the variable that chooses it: Postgres as rowcall_reader, or as rowcall_auditor."""

KINDS: Final[Mapping[str, Json]] = {
    "timeseries": {"type": "timeseries", "custom": {"fillOpacity": 10, "showPoints": "never"}},
    "bars": {"type": "timeseries", "custom": {"drawStyle": "bars", "fillOpacity": 80, "stacking": {"mode": "normal"}}},
    "stat": {"type": "stat", "options": {"colorMode": "value", "graphMode": "none"}},
    "bargauge": {"type": "bargauge", "options": {"orientation": "horizontal"}},
    "table": {"type": "table"},
}
UNITS: Final = frozenset({"short", "s", "bytes", "percentunit", "ops", "reqps"})

_DASHBOARD: Final = frozenset({"uid", "title", "about", "sources", "since", "refresh", "variable", "panel"})
_VARIABLE: Final = frozenset({"name", "query"})
_PANEL: Final = frozenset({"title", "about", "kind", "unit", "width", "height", "source", "queries"})
_QUERY: Final = frozenset({"expr", "sql", "legend"})

DEPLOYMENTS: Final = (
    "count by (deployed_version, release) (rowcall_build_info)"
    " unless count by (deployed_version, release) (rowcall_build_info offset 5m)"
)
"""The versions that run and did not five minutes before."""
ACTIONS: Final = "select at as time, actor || ' ' || action || ' ' || target as text from rowcall.audit where $__timeFilter(at) order by at desc limit 200"
"""What operators and admins did."""


class WrongSource(Exception):
    """Something in the file that no dashboard can be made of; says where, and what is possible."""


def made(text: str) -> dict[str, Json]:
    """The dashboards, by the names of their files.

    Args:
        text: What dashboards.toml says.

    Raises:
        WrongSource: It is not as it must be.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise WrongSource(f"no TOML: {error}") from error
    _known(found, frozenset({"dashboard"}), "the file")
    return {f"{each['uid']}.json": _dashboard(each) for each in found.get("dashboard", [])}


def written(dashboard: Json) -> str:
    """A dashboard as its file has it."""
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


def _dashboard(said: Json) -> Json:
    where = str(said.get("uid", "a dashboard without uid"))
    _known(said, _DASHBOARD, where)
    sources = said["sources"]
    for each in sources:
        _one_of(each, SOURCES, f"{where}: source")
    variables = [_source_variable(each) for each in sources]
    variables += [_variable(each, sources[0], where) for each in said.get("variable", [])]
    return {
        "uid": where,
        "title": said["title"],
        "description": said["about"],
        "tags": ["rowcall"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "time": {"from": said["since"], "to": "now"},
        "refresh": said["refresh"],
        "timezone": "utc",
        "templating": {"list": variables},
        "annotations": {"list": [mark for each in sources for mark in _marks(each)]},
        "links": [
            {"type": "dashboards", "title": "Rowcall", "tags": ["rowcall"], "asDropdown": True, "includeVars": True}
        ],
        "panels": list(_placed(said["panel"], sources[0], where)),
    }


def _source(name: str) -> Json:
    return {"type": SOURCES[name]["type"], "uid": f"${{{name}}}"}


def _source_variable(name: str) -> Json:
    source = SOURCES[name]
    return {
        "name": name,
        "label": source["label"],
        "type": "datasource",
        "query": source["type"],
        "regex": source["regex"],
        "hide": 0,
        "refresh": 1,
    }


def _variable(said: Json, source: str, where: str) -> Json:
    _known(said, _VARIABLE, f"{where}: variable")
    name, query = said["name"], said["query"]
    promql = source == "prometheus"
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _source(source),
        "query": {"query": query, "refId": name} if promql else query,
        "refresh": 2,
        "includeAll": True,
        # Of SQL it stands in a list: an empty one would be none.
        "allValue": ".*" if promql else query.replace(" order by 1", ""),
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _marks(source: str) -> Iterator[Json]:
    common = {"datasource": _source(source), "enable": True, "hide": False}
    if source == "prometheus":
        yield {
            **common,
            "name": "Deployments",
            "iconColor": "blue",
            "expr": DEPLOYMENTS,
            "step": "1m",
            "titleFormat": "{{deployed_version}} {{release}}",
        }
    elif source == "tenants":
        yield {
            **common,
            "name": "Operators' actions",
            "iconColor": "purple",
            "target": {
                "refId": "actions",
                "format": "table",
                "rawQuery": True,
                "editorMode": "code",
                "rawSql": ACTIONS,
            },
        }


def _placed(panels: list[Json], source: str, where: str) -> Iterator[Json]:
    """The panels from left to right, in rows as high as their highest."""
    x = y = row = 0
    for number, said in enumerate(panels, start=1):
        panel = _panel(said, source, f"{where}: panel {said.get('title', number)!r}")
        width, height = panel["gridPos"]["w"], panel["gridPos"]["h"]
        if x + width > WIDTH:
            x, y, row = 0, y + row, 0
        panel["id"], panel["gridPos"] = number, {"x": x, "y": y, "w": width, "h": height}
        yield panel
        x, row = x + width, max(row, height)


def _panel(said: Json, source: str, where: str) -> Json:
    _known(said, _PANEL, where)
    kind = _one_of(said["kind"], KINDS, f"{where}: kind")
    unit = _one_of(said["unit"], UNITS, f"{where}: unit")
    source = _one_of(said.get("source", source), SOURCES, f"{where}: source")
    width = said["width"]
    if not isinstance(width, int) or not 0 < width <= WIDTH:
        raise WrongSource(f"{where}: width is {width!r}; it is a number up to {WIDTH}")
    queries = said["queries"]
    if not queries:
        raise WrongSource(f"{where}: has no query")
    shape = KINDS[kind]
    options = dict(shape.get("options", {}))
    if kind in {"stat", "bargauge"}:
        # Of SQL each row is a value; a query of Prometheus finds one a series.
        options["reduceOptions"] = {"calcs": ["lastNotNull"], "values": source != "prometheus"}
    return {
        "type": shape["type"],
        "title": said["title"],
        "description": said["about"],
        "datasource": _source(source),
        "gridPos": {"w": width, "h": said.get("height", HEIGHT)},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": shape.get("custom", {})}, "overrides": []},
        "options": options,
        "targets": [_target(each, chr(ord("A") + place), kind, source, where) for place, each in enumerate(queries)],
    }


def _target(said: Json, name: str, kind: str, source: str, where: str) -> Json:
    _known(said, _QUERY, where)
    language = "expr" if source == "prometheus" else "sql"
    if language not in said or len({"expr", "sql"} & set(said)) != 1:
        raise WrongSource(f"{where}: query {name} needs {language!r}, as its source is {source}")
    common = {"refId": name, "datasource": _source(source)}
    if source == "prometheus":
        now = kind in {"stat", "table", "bargauge"}
        return {
            **common,
            "expr": said["expr"],
            "legendFormat": said.get("legend", "__auto"),
            "instant": now,
            "range": not now,
            "format": "table" if kind == "table" else "time_series",
        }
    over_time = re.search(r"\bas time\b", said["sql"]) is not None
    if over_time != (kind in {"timeseries", "bars"}):
        raise WrongSource(f"{where}: query {name} of {kind} {'has' if over_time else 'lacks'} a column named time")
    return {
        **common,
        "rawSql": said["sql"],
        "format": "time_series" if over_time else "table",
        "rawQuery": True,
        "editorMode": "code",
    }


def _known(said: Json, known: frozenset[str], where: str) -> None:
    unknown = sorted(set(said) - known)
    if unknown:
        raise WrongSource(f"{where}: {unknown[0]!r} is nothing that it has; it has {', '.join(sorted(known))}")
    lacking = sorted(known - set(said) - {"variable", "height", "source", "expr", "sql", "legend", "dashboard"})
    if lacking:
        raise WrongSource(f"{where}: lacks {lacking[0]!r}")


def _one_of(said: object, possible: Mapping[str, object] | frozenset[str], where: str) -> str:
    if not isinstance(said, str) or said not in possible:
        raise WrongSource(f"{where} is {said!r}; it is one of {', '.join(sorted(possible))}")
    return said


def main() -> int:
    """Writes the files, or compares them; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.dashboards", description=__doc__, epilog="Example: python -m tools.dashboards --check"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; say which files differ")
    check = parser.parse_args().check
    try:
        wanted = {name: written(each) for name, each in made(SOURCE.read_text("utf-8")).items()}
    except WrongSource as error:
        print(f"{SOURCE.relative_to(ROOT)}: {error}")
        return 1
    present = {path.name: path.read_text("utf-8") for path in MADE.glob("*.json")}
    differ = sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))
    if check:
        for name in differ:
            print(f"{(MADE / name).relative_to(ROOT)} is not what dashboards.toml makes: run make generate")
        return int(bool(differ))
    MADE.mkdir(parents=True, exist_ok=True)
    for name in differ:
        if name in wanted:
            (MADE / name).write_text(wanted[name], "utf-8")
        else:
            (MADE / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
