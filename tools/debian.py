"""Programs of Debian's packages, for tests: fetched and unpacked into a cache, never installed.

At the version that the release has: its archive keeps no other. Called by `postgres_programs`, and by the tests of deploy/.
"""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
# Root's servers run as another account, which may not be able to enter the folder of the repository.
CACHE: Final = Path("/var/cache/rowcall-test-programs") if os.geteuid() == 0 else ROOT / ".tools/postgres"


class NotHad(Exception):
    """A program that this machine cannot get; says why, and what to do."""


def folder_of(package: str) -> Path:
    """Where a package is unpacked; it has the folders of a system's root."""
    return CACHE / package / "root"


def unpacked(package: str, otherwise: str) -> Mapping[str, str]:
    """Unpacks a package, and what libraries it needs that are not installed, unless that was done before.

    Args:
        package: Its name.
        otherwise: What is to be set where it cannot be had, such as "PGBOUNCER=/path/to/pgbouncer".

    Returns:
        The environment to run its programs in.

    Raises:
        NotHad: It cannot be had.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NotHad(f"{package} is taken from Debian, and this is another system: set {otherwise}")
    folder = folder_of(package)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Several processes of a run of the tests may want it at the same time.
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _fetch(package, folder, otherwise)
    libraries = [str(path) for path in sorted(folder.glob("usr/lib/*-linux-*")) if path.is_dir()]
    return {"LD_LIBRARY_PATH": os.pathsep.join(libraries)} if libraries else {}


def _fetch(package: str, folder: Path, otherwise: str) -> None:
    print(f"fetching Debian's {package} into {folder}", flush=True)
    partial = folder.with_name("partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    seen: set[str] = set()
    wanted = [package]
    while wanted:
        archive = _download(wanted.pop(), otherwise)
        run(f"{archive} cannot be unpacked", ["dpkg-deb", "--extract", archive, partial])
        news = {name for name in _libraries(archive) if not _installed(name)} - seen
        seen |= news
        wanted += sorted(news)
    partial.rename(folder)


def _download(package: str, otherwise: str) -> Path:
    folder = CACHE / "archives" / package
    folder.mkdir(parents=True, exist_ok=True)
    lists = CACHE / "lists"
    own_lists = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={CACHE / 'apt'}"]
    # The account that apt would switch to cannot write here.
    apt = ["apt-get", "--quiet", "-o", "APT::Sandbox::User=root"]
    refused = f"{package} cannot be had from the archives that apt knows; install it or set {otherwise}"
    try:
        run(refused, [*apt, "download", package], folder=folder)
    except NotHad:
        # An image without lists of packages, or with old ones: lists of our own, as updating the machine's needs root.
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        (CACHE / "apt/archives/partial").mkdir(parents=True, exist_ok=True)
        run(refused, [*apt, *own_lists, "update"])
        run(refused, [*apt, *own_lists, "download", package], folder=folder)
    return max(folder.glob("*.deb"), key=lambda archive: archive.stat().st_mtime)


def _libraries(archive: Path) -> Iterator[str]:
    depends = run(f"{archive} cannot be read", ["dpkg-deb", "--field", archive, "Depends"])
    for alternatives in depends.split(","):
        name = re.split(r"[\s(|:]", alternatives.strip(), maxsplit=1)[0]
        # LLVM is a hundred megabytes for compiling queries, which Postgres does without where it is not there; scripts are for pages
        # that nobody looks at.
        if name.startswith("lib") and name != "libc6" and not name.startswith("libjs-") and "llvm" not in name:
            yield name


def _installed(package: str) -> bool:
    found = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", package],
        capture_output=True,
        check=False,
        text=True,
    )
    return found.stdout == "installed"


def run(
    refused: str,
    command: list[str | Path],
    environment: Mapping[str, str] | None = None,
    *,
    folder: Path = ROOT,
) -> str:
    """What a command writes.

    Args:
        refused: What is said of it where it fails.
        command: The program and its arguments.
        environment: More of it than ours.
        folder: Where it runs.

    Raises:
        NotHad: It failed, or is not there.
    """
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
