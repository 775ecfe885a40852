from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import figures, layers
from tests.bench.figures import Figure, beside


@pytest.fixture(autouse=True)
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The figures of a test are kept in a file of its own."""
    monkeypatch.setattr(figures, "BUILD", tmp_path)
    monkeypatch.setattr(figures, "PATH", tmp_path / "bench.json")
    return tmp_path / "bench.json"


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    # Of medians it would be 2: each round was measured under its own circumstances.
    figure = beside("x", [10, 20, 90], "jobs/s", against="y", theirs=[10, 5, 30])
    assert (figure.ours, figure.theirs, figure.ratio) == (20, 10, 3)
    assert figure.spread == (1, 4)


def test_without_another_the_spread_is_ours() -> None:
    figure = beside("x", [3, 1, 2], "kB", goal="<= 2")
    assert (figure.ours, figure.ratio, figure.spread) == (2, None, (1, 3))
    assert figure.reached is True


@pytest.mark.parametrize(
    ("goal", "reached"),
    [(">= 3", True), (">= 3.1", False), ("<= 3", True), ("< 3.1", True), ("< 3", False), ("<= 2.9", False)],
)
def test_a_goal_is_judged_by_the_ratio(goal: str, reached: bool) -> None:
    assert beside("x", [30], "ms", against="y", theirs=[10], goal=goal).reached is reached


def test_no_goal_is_neither_reached_nor_missed() -> None:
    assert beside("x", [1], "ms").reached is None


def test_figures_are_read_back_as_they_were_kept() -> None:
    kept = [beside("x", [1.5], "ms", against="y", theirs=[3.0], settings={"jobs": "10"}), beside("z", [1], "kB")]
    figures.keep(kept)
    assert figures.kept() == kept


def test_a_newer_figure_takes_the_place_of_the_older_and_of_no_other() -> None:
    figures.keep([beside("x", [1], "ms", against="y", theirs=[1]), beside("x", [1], "ms", against="z", theirs=[1])])
    figures.keep([beside("x", [2], "ms", against="y", theirs=[1])])
    assert [(each.against, each.ours) for each in figures.kept()] == [("z", 1), ("y", 2)]


def test_what_is_kept_has_the_fields_that_readers_of_it_know(own_file: Path) -> None:
    figures.keep([beside("x", [1], "ms")])
    import json

    [found] = json.loads(own_file.read_text())
    assert list(found) == [
        "name", "ours", "unit", "against", "theirs", "ratio", "goal", "spread", "settings", "versions", "machine",
    ]  # fmt: skip
    assert found["machine"]
    assert {"python", "grpcio", "psycopg"} <= set(found["versions"])


def test_the_table_says_which_goals_were_reached() -> None:
    shown = figures.table(
        [
            beside("good", [2], "x/s", against="y", theirs=[1], goal=">= 1"),
            beside("bad", [1], "x/s", against="y", theirs=[2], goal=">= 1"),
            Figure("told", 12345.6, "bytes", "", None, None, "", None),
        ]
    )
    good, bad, told = shown.splitlines()[2:]
    assert "| reached" in good
    assert "| NOT REACHED" in bad
    assert "12,346" in told
    assert "reached" not in told.lower()


def test_a_layer_that_is_not_built_is_refused_and_not_left_out() -> None:
    with pytest.raises(layers.UnknownLayer, match=r"rls .* is not built in this release"):
        layers.named("rls")
    with pytest.raises(layers.UnknownLayer, match=r"there is no layer 'jtw'; there are tracing, .*jwt"):
        layers.named("jtw")
    assert layers.named("tracing").environment
