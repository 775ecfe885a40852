"""What no dashboard can be made of is refused, with where it stands and what is possible."""

from __future__ import annotations

import pytest

from tools.dashboards import SOURCE, WrongSource, made

GOOD = """
[[dashboard]]
uid = "rowcall-x"
title = "X"
about = "X."
sources = ["sums"]
since = "now-1h"
refresh = ""
[[dashboard.panel]]
title = "P"
about = "P."
kind = "table"
unit = "short"
width = 12
queries = [{ sql = "select 1" }]
"""


def test_what_is_good_is_made() -> None:
    [dashboard] = made(GOOD).values()
    assert dashboard["panels"][0]["gridPos"] == {"x": 0, "y": 0, "w": 12, "h": 8}


@pytest.mark.parametrize(
    ("said", "instead", "refusal"),
    [
        ('uid = "rowcall-x"', 'uid = "rowcall-x"\ncolour = "red"', "rowcall-x: 'colour' is nothing that it has"),
        ('title = "P"\n', 'title = "P"\nsize = 3\n', "rowcall-x: panel 'P': 'size' is nothing that it has"),
        ('kind = "table"', 'kind = "pie"', "kind is 'pie'; it is one of bargauge, bars"),
        ('unit = "short"', 'unit = "furlongs"', "unit is 'furlongs'; it is one of bytes"),
        ("width = 12", "width = 30", "width is 30; it is a number up to 24"),
        ('unit = "short"\n', "", "rowcall-x: panel 'P': lacks 'unit'"),
        ('sources = ["sums"]', 'sources = ["oracle"]', "source is 'oracle'; it is one of prometheus"),
        ('{ sql = "select 1" }', '{ expr = "up" }', "query A needs 'sql', as its source is sums"),
        ('{ sql = "select 1" }', "", "panel 'P': has no query"),
        ("select 1", "select now() as time", "query A of table has a column named time"),
        ('kind = "table"', 'kind = "bars"', "query A of bars lacks a column named time"),
        ("[[dashboard]]", "[[dashboard", "no TOML"),
    ],
)
def test_what_is_wrong_is_refused_in_words(said: str, instead: str, refusal: str) -> None:
    assert GOOD.count(said) == 1
    with pytest.raises(WrongSource) as refused:
        made(GOOD.replace(said, instead))
    assert refusal in str(refused.value)


def test_panels_lie_in_rows_as_high_as_their_highest() -> None:
    [dashboard] = [each for each in made(SOURCE.read_text("utf-8")).values() if each["uid"] == "rowcall-sql"]
    places = [(each["gridPos"]["x"], each["gridPos"]["y"]) for each in dashboard["panels"]]
    assert places == [(0, 0), (12, 0), (0, 8), (0, 16), (12, 16), (0, 24)]
