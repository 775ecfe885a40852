"""What rowcall.embedded refuses before any server runs, and what it says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rowcall import embedded
from rowcall.embedded import postmaster
from rowcall.embedded.data_dir import prepare


def test_binaries_that_are_not_there_are_named_with_their_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()

    with pytest.raises(embedded.BinariesError, match=r"the directory given.*postgres and initdb not found"):
        embedded.start(tmp_path / "data", binaries=empty)

    monkeypatch.setenv("ROWCALL_POSTGRES_BIN", str(empty))
    with pytest.raises(embedded.BinariesError, match=f"ROWCALL_POSTGRES_BIN={empty}.*Name the bin directory"):
        embedded.start(tmp_path / "data")


def test_binaries_that_do_not_work_are_refused_with_what_they_said(tmp_path: Path, public_dir: Path) -> None:
    for name in ("postgres", "initdb"):
        (public_dir / name).write_text("#!/bin/sh\necho 'libpq.so: cannot open shared object file' >&2\nexit 127\n")
        (public_dir / name).chmod(0o755)

    with pytest.raises(embedded.BinariesError, match=r"postgres --version failed: libpq.so: cannot open shared object"):
        embedded.start(tmp_path / "data", binaries=public_dir)


def test_binaries_that_the_server_account_cannot_execute_are_refused(tmp_path: Path, public_dir: Path) -> None:
    for name in ("postgres", "initdb"):
        (public_dir / name).write_text("#!/bin/sh\n")
        (public_dir / name).chmod(0o644)

    with pytest.raises(embedded.BinariesError, match=r"may not execute .*/postgres .*give it access"):
        embedded.start(tmp_path / "data", binaries=public_dir)


def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")

    with pytest.raises(embedded.DataDirError, match="is not empty and holds no embedded Postgres: choose"):
        embedded.start(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_data_directory_of_another_postgres_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("18\n")

    with pytest.raises(embedded.DataDirError, match="a Postgres that Rowcall did not make: choose a new directory"):
        embedded.start(tmp_path)


def test_a_file_is_not_a_data_directory(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")

    with pytest.raises(embedded.DataDirError, match="data cannot be used as a data directory: File exists"):
        embedded.start(tmp_path / "data")


def test_a_directory_has_one_owner_at_a_time(tmp_path: Path) -> None:
    data_dir = prepare(tmp_path / "data")
    lock = data_dir.lock()

    with pytest.raises(embedded.DataDirInUseError, match=f"This process .pid {os.getpid()}. already runs"):
        embedded.start(tmp_path / "data")

    lock.release()
    data_dir.lock().release()


@pytest.mark.parametrize("name", ["port", "listen_addresses", "unix_socket_directories", "cluster_name"])
def test_settings_that_the_handle_relies_on_cannot_be_changed(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"cannot be changed: {name}"):
        embedded.start(tmp_path / "data", settings={name: "x"})

    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("content", ["", "\n", "not a number\n"])
def test_a_pid_file_in_the_making_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "postmaster.pid").write_text(content)

    assert postmaster.read_pid_file(tmp_path) is None


def test_a_pid_file_says_ready_on_its_eighth_line(tmp_path: Path) -> None:
    lines = ["4711", "/data", "1700000000", "5432", "", "127.0.0.1", " 123 4", "starting"]
    (tmp_path / "postmaster.pid").write_text("\n".join(lines) + "\n")
    assert postmaster.read_pid_file(tmp_path) == postmaster.PidFile(pid=4711, ready=False)

    (tmp_path / "postmaster.pid").write_text("\n".join([*lines[:7], "ready   "]) + "\n")
    assert postmaster.read_pid_file(tmp_path) == postmaster.PidFile(pid=4711, ready=True)
