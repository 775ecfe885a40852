"""deploy/prometheus and the dashboards, held by the real promtool and a real Prometheus."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fix_prometheus import DEPLOYMENT, Promtool


def test_promtool_takes_the_configuration_and_the_rules(promtool: Promtool) -> None:
    assert "SUCCESS" in promtool("check", "config", DEPLOYMENT / "prometheus.yaml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", DEPLOYMENT / "rules.yaml")


def test_each_alert_fires_and_does_not(promtool: Promtool) -> None:
    assert "SUCCESS" in promtool("test", "rules", DEPLOYMENT / "tests.yaml")


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        ('origin="GATEWAY", ', ""),
        ("unless on (shard, queue)", "and on (shard, queue)"),
        ("max by (shard, queue, lane) (", "sum by (shard, queue, lane) ("),
    ],
)
def test_the_tests_of_the_alerts_fail_where_a_rule_is_another(
    promtool: Promtool, tmp_path: Path, said: str, instead: str
) -> None:
    rules = (DEPLOYMENT / "rules.yaml").read_text("utf-8")
    assert rules.count(said) == 1
    (tmp_path / "rules.yaml").write_text(rules.replace(said, instead))
    (tmp_path / "tests.yaml").write_text((DEPLOYMENT / "tests.yaml").read_text("utf-8"))
    assert "FAILED" in promtool("test", "rules", tmp_path / "tests.yaml", accepts=False)
