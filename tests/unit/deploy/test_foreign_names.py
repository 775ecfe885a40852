"""The names of docs/metrics.md that operators know from elsewhere: all of them, each by metrics that we have."""

from __future__ import annotations

from typing import Final

import pytest

from tests.support.foreign_names import queries
from tests.support.promql import declared, grouped, matched, names

NAMES: Final = {
    "api_request_latency_ms",
    "api_error_rate",
    "queue_depth",
    "oldest_job_age_seconds",
    "job_retry_count",
    "worker_success_rate",
    "worker_failure_rate",
    "database_write_latency_ms",
    "external_api_error_rate",
    "cache hit rate",
    "worker throughput",
}


def test_each_has_a_query_here() -> None:
    found = queries()
    assert set(found) == NAMES
    assert all(found.values()), found


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_query_goes_by_metrics_and_labels_that_we_have(name: str) -> None:
    metrics = declared()
    for query in queries()[name]:
        asked = names(query)
        assert asked
        assert asked <= set(metrics)
        for metric, label in matched(query):
            assert label in metrics[metric], f"{metric} has no label {label}"
        assert grouped(query) <= frozenset().union(*(metrics[each] for each in asked))
