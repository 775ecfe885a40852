"""The dashboards of deploy/grafana: nothing that points at what is not there, nothing that cannot be read."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

import pytest
import yaml

from tests.support.dashboards import DASHBOARDS, FOLDER, Asked, beside_panels, of_panels
from tests.support.places import ROOT
from tests.support.promql import declared, grouped, matched, names

ALL: Final = [*of_panels(), *beside_panels()]
OF_PROMETHEUS: Final = [each for each in ALL if each.source == "prometheus"]
OF_SQL: Final = [each for each in ALL if each.source != "prometheus"]
ROLES: Final = {"sums": "rowcall_reader", "tenants": "rowcall_auditor"}
TARGET: Final = {"job", "instance"}
"""What Prometheus adds to each series."""

by_name = pytest.mark.parametrize("name", DASHBOARDS)


def asked(found: list[Asked]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("query", found, ids=lambda each: each.where)


def test_there_are_those_that_the_guide_names() -> None:
    guide = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    assert set(DASHBOARDS) == set(re.findall(r"^\| `(rowcall-[\w-]+)`", guide, re.MULTILINE))
    assert {dashboard["uid"] for dashboard in DASHBOARDS.values()} == set(DASHBOARDS)
    assert len({dashboard["title"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


@by_name
def test_panels_have_a_place_a_name_and_a_unit_of_their_own(name: str) -> None:
    panels = DASHBOARDS[name]["panels"]
    assert len({panel["title"] for panel in panels}) == len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(set(references)) == len(references)


@by_name
def test_what_is_asked_is_chosen_by_a_variable_and_every_variable_chooses_something(name: str) -> None:
    dashboard = DASHBOARDS[name]
    variables: dict[str, dict[str, Any]] = {each["name"]: each for each in dashboard["templating"]["list"]}
    sources = {each for each, variable in variables.items() if variable["type"] == "datasource"}
    queries = [each for each in ALL if each.where.startswith(f"{name}:")]
    assert {each.source for each in queries} == sources
    for panel in dashboard["panels"]:
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {panel["datasource"]["uid"]}
    used = {word for each in queries for word in re.findall(r"\$(\w+)", each.raw) if not word.startswith("__")}
    assert used == set(variables) - sources
    macros = {word for each in queries for word in re.findall(r"\$(__\w+)", each.raw)}
    assert macros <= {"__rate_interval", "__range", "__timeFilter"}
    assert "$" not in "".join(each.text for each in queries), "something was not filled in"


@asked(OF_PROMETHEUS)
def test_a_query_goes_by_metrics_and_labels_that_we_have(query: Asked) -> None:
    metrics = declared()
    assert names(query.text) <= set(metrics)
    for metric, label in matched(query.text):
        assert label in metrics[metric] | TARGET, f"{metric} has no label {label}"
    assert grouped(query.text) <= frozenset().union(*(metrics[each] for each in names(query.text))) | TARGET


@by_name
def test_a_legend_names_labels_that_its_query_leaves(name: str) -> None:
    for panel in DASHBOARDS[name]["panels"]:
        for target in panel["targets"]:
            if "expr" in target:
                named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                left = grouped(target["expr"]) or TARGET
                assert named <= left, panel["title"]
                # Two series under one name cannot be told apart.
                assert named or not grouped(target["expr"]) or target["legendFormat"] == "__auto", panel["title"]


@asked(OF_SQL)
def test_a_query_reads_what_its_role_may_read(query: Asked) -> None:
    rights = tomllib.loads((ROOT / "libs/common/src/rowcall/migrations/shard/rights.toml").read_text("utf-8"))
    read = set(re.findall(r"\browcall\.(\w+)", query.raw))
    assert read
    assert read <= set(rights[ROLES[query.source]]["select"])


@by_name
def test_what_can_be_chosen_is_provisioned(name: str) -> None:
    provisioned = yaml.safe_load((FOLDER / "provisioning/datasources/rowcall.yaml").read_text("utf-8"))["datasources"]
    for variable in DASHBOARDS[name]["templating"]["list"]:
        if variable["type"] == "datasource":
            pattern = variable["regex"].strip("/")
            fitting = [
                each for each in provisioned if each["type"] == variable["query"] and re.search(pattern, each["name"])
            ]
            assert fitting, variable["name"]
            roles = {each.get("user") for each in fitting}
            assert roles == {None if variable["name"] == "prometheus" else f"rowcall_{variable['name']}_login"}


def test_grafana_reads_the_folder_that_compose_gives_it() -> None:
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]["grafana"]
    mounted = dict(volume.removesuffix(":ro").split(":") for volume in service["volumes"])
    [provider] = yaml.safe_load((FOLDER / "provisioning/dashboards/rowcall.yaml").read_text("utf-8"))["providers"]
    assert provider["options"]["path"] == mounted["./deploy/grafana/dashboards"]
    assert mounted["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"


def test_what_watches_is_pinned_by_its_version_and_started_where_it_is_asked_for() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    for name in ("prometheus", "grafana", "jaeger"):
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", services[name]["image"])
        assert services[name]["profiles"] == ["monitoring"]
        assert all(port.startswith("127.0.0.1:") for port in services[name]["ports"])
