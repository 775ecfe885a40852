"""Calls and queries that pages tell people to make, made as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
_CALL: Final = re.compile(r"^(?:uv run )?(buf curl .*authorization.*\\\n.*/Echo)$", re.MULTILINE)
_ADDRESS: Final = re.compile(r"(?<=://)[^/]+(?=/rowcall\.probe\.v1)")
_SQL: Final = re.compile(r"^```sql\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def queries(page: str) -> list[str]:
    """The queries in SQL that a page has.

    Args:
        page: From the root of the repository.
    """
    return _SQL.findall((_ROOT / page).read_text("utf-8"))


def call_with_a_token(page: str, address: str, token: str, *, cwd: Path, ca: Path | None = None) -> str:
    """What the one call with a token prints that a page has.

    Args:
        page: From the root of the repository.
        address: HOST:PORT to call in place of the page's own.
        token: In place of the one that its reader has by then.
        cwd: Elsewhere than in a checkout, whose types would be at hand.
        ca: Who signed the gateway's certificate, where it is no authority of the machine's.
    """
    [command] = _CALL.findall((_ROOT / page).read_text("utf-8"))
    command = _ADDRESS.sub(address, command)
    if ca is not None:
        command = command.replace("buf curl", f"buf curl --cacert {ca}", 1)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ran = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PATH": path, "TOKEN": token, "ROWCALL_TOKEN": token},
        text=True,
        timeout=60,
    )
    return ran.stdout + ran.stderr
