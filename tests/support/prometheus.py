"""Prometheus and promtool, the real ones: named (PROMETHEUS, the folder of both), installed, or Debian's, unpacked into a cache."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tools.debian import NotHad, folder_of, unpacked


def programs() -> Path:
    """The folder of both.

    Raises:
        NotHad: There are none here.
    """
    if named := os.environ.get("PROMETHEUS"):
        folder = Path(named)
        if not ((folder / "promtool").is_file() and (folder / "prometheus").is_file()):
            raise NotHad(f"PROMETHEUS={named} is no folder with prometheus and promtool")
        return folder
    installed, promtool = shutil.which("prometheus"), shutil.which("promtool")
    if installed and promtool and Path(installed).parent == Path(promtool).parent:
        return Path(installed).parent
    unpacked("prometheus", "PROMETHEUS=/path/to/bin")
    return folder_of("prometheus") / "usr" / "bin"
