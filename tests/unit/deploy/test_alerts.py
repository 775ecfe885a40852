"""deploy/prometheus/rules.yaml against what it stands on: metrics that we have, runbooks that are there, and a test of each alert."""

from __future__ import annotations

import re
import shlex
from typing import Any, Final

import pytest
import yaml
from typer.core import TyperGroup
from typer.main import get_command

from rowcall_cli.main import app
from tests.support.documents import anchors
from tests.support.places import ROOT
from tests.support.promql import OF_PROMETHEUS, declared, grouped, matched, names

DEPLOYMENT: Final = ROOT / "deploy" / "prometheus"
RULES: Final[list[dict[str, Any]]] = [
    rule
    for group in yaml.safe_load((DEPLOYMENT / "rules.yaml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS: Final = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED: Final = {rule["record"] for rule in RULES if "record" in rule}
TARGET: Final = {"job", "instance"}
"""What Prometheus adds to each series."""


def runbook(alert: str) -> str:
    """What stands under an alert's heading; "" where there is none."""
    text = (ROOT / "docs" / "operating.md").read_text("utf-8")
    found = re.search(rf"^### {alert}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    return "" if found is None else found[1]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_goes_by_metrics_and_labels_that_we_have(rule: dict[str, Any]) -> None:
    metrics = {**declared(), **OF_PROMETHEUS}
    unknown = names(rule["expr"]) - set(metrics) - RECORDED
    assert not unknown, "no metric of ours"
    for name, label in matched(rule["expr"]):
        assert label in metrics[name] | TARGET, f"{name} has no label {label}"
    ours = frozenset().union(*(metrics[name] for name in names(rule["expr"]) if name in metrics))
    recorded = {label for name in names(rule["expr"]) & RECORDED for label in name.partition(":")[0].split("_")}
    assert grouped(rule["expr"]) <= ours | recorded | TARGET


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_it_is_and_where_its_runbook_is(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in {"page", "warning"}
    assert set(rule["annotations"]) == {"summary", "runbook_url"}
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert anchor == alert.lower()
    assert anchor in set(anchors(ROOT / page))
    parts = re.findall(r"^\*\*(\w+)\.\*\* \S", runbook(alert), re.MULTILINE)
    assert parts == ["Means", "Look", "Do"]


def test_no_runbook_is_of_an_alert_that_there_is_not() -> None:
    text = (ROOT / "docs" / "operating.md").read_text("utf-8")
    assert set(re.findall(r"^### (Rowcall\w+)$", text, re.MULTILINE)) == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_the_commands_of_a_runbook_are_there_with_the_flags_that_it_names(alert: str) -> None:
    commands = re.findall(r"`rowcall ([^`]+)`", runbook(alert))
    assert commands or "curl -s" in runbook(alert), "nothing of ours to look at"
    for command in commands:
        node = get_command(app)
        words = shlex.split(command)
        while isinstance(node, TyperGroup):
            name = words.pop(0)
            assert name in node.commands, f"rowcall {command}"
            node = node.commands[name]
        flags = {flag for parameter in node.params for flag in parameter.opts}
        unknown = {word for word in words if word.startswith("--")} - flags
        assert not unknown, f"rowcall {command}"


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_tried_where_it_fires_and_where_it_does_not(alert: str) -> None:
    """And that nothing fires of a system that is well is tried of all of them at once; promtool runs it (test_prometheus)."""
    tests = yaml.safe_load((DEPLOYMENT / "tests.yaml").read_text("utf-8"))["tests"]
    tried = [
        each["exp_alerts"] for test in tests for each in test.get("alert_rule_test", ()) if each["alertname"] == alert
    ]
    assert any(tried), "never fires"
    assert not all(tried), "always fires"
