"""What the proofs measured, kept as they go: printed, and written to build/proofs.json for docs/proofs.md."""

from __future__ import annotations

import json
import os
import platform
import time

from tests.support.places import ROOT

BUILD = ROOT / "build"


def say(text: str) -> None:
    """Shows what is under way."""
    print(f"  {time.strftime('%H:%M:%S')}  {text}", flush=True)


def keep(proof: str, figure: str, value: float, *, unit: str, goal: str) -> None:
    """Prints a figure beside its goal, and keeps it."""
    print(f"  {proof}: {figure}: {value:.4g} {unit}   (goal {goal})", flush=True)
    BUILD.mkdir(exist_ok=True)
    path = BUILD / "proofs.json"
    figures = json.loads(path.read_text()) if path.exists() else {}
    figures[f"{proof}: {figure}"] = {
        "value": value,
        "unit": unit,
        "goal": goal,
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
    }
    path.write_text(json.dumps(figures, indent=2) + "\n")


def percentile(values: list[float], share: float) -> float:
    """The value that this share of the values is not above; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0
