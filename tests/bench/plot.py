"""Draws the figures that have something beside them: build/bench.svg. Called at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.figures import BUILD, Figure, number

PATH = BUILD / "bench.svg"


def draw(figures: Sequence[Figure]) -> None:
    """A bar for each ratio, its rounds' spread, and a mark where the goal is."""
    shown = [figure for figure in figures if figure.ratio is not None]
    if not shown:
        return
    # Installed by `make bench` alone: what benchmarks there are, and how they are run, is told without it.
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 0.42 * len(shown) + 1.2), layout="constrained")
    for place, each in enumerate(reversed(shown)):
        assert each.ratio is not None
        assert each.spread is not None
        colour = {True: "#2f855a", False: "#c05621", None: "#4a5568"}[each.reached]
        axes.barh(place, each.ratio, color=colour, height=0.6)
        axes.plot(each.spread, [place, place], color="black", linewidth=1)
        if each.goal:
            sign, goal = each.goal.split()[:2]
            axes.plot([float(goal)] * 2, [place - 0.4, place + 0.4], color="black", linewidth=2.5)
            note = f" goal {sign} {goal}"
        else:
            note = ""
        axes.annotate(
            f"{number(each.ratio)}{note}", (max(each.ratio, each.spread[1]), place), (6, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axes.set_yticks(range(len(shown)), [f"{each.name}\nagainst {each.against}" for each in reversed(shown)], fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1, color="#a0aec0", linewidth=0.8)
    axes.set_xlabel("ours by theirs; thin line: the rounds; thick mark: the goal")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PATH)
    plt.close(figure)
