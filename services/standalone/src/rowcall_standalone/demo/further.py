"""How to look further after the demo: commands that work as they are shown, in a shell in this directory. Called by `run`."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rowcall_standalone.demo import example

_ADDRESS = "127.0.0.1:50051"


@dataclass(frozen=True, slots=True)
class Hint:
    """Something to try."""

    purpose: str
    """What it is for."""
    command: str
    """The command line."""


def hints(*, data_dir: Path, shards: int, image: Path, tenant: str, question: str, operation: str) -> Sequence[Hint]:
    """What to try on the demo's data: the system to stay, a question asked in two ways, a job looked at."""
    rowcall = _program("rowcall")
    dev = [rowcall, "dev", "--listen", _ADDRESS, "--data-dir", _short(data_dir), "--shards", str(shards)]
    package = ["--image", _short(image), "--servicer", example.SERVICER]
    database = ["--database", f"{example.DSN_VARIABLE}={example.DATABASE}"]
    request = json.dumps({"question": question}, ensure_ascii=False)
    submit = [rowcall, "submit", example.ASK, "--tenant", tenant, "--wait", "5", "--json", request]
    curl = [_program("buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    call = ["--header", f"rowcall-tenant: {tenant}", "--data", request, f"http://{_ADDRESS}/{example.ASK}"]
    return [
        Hint("Keep the same system running on the same data:", shlex.join([*dev, *package, *database])),
        Hint("Then ask it, without a line of code", shlex.join(submit)),
        Hint("or with any gRPC client; reflection tells it the types:", shlex.join([*curl, *call])),
        Hint("Look at the operation that was followed", shlex.join([rowcall, "jobs", "show", operation, "--full"])),
        Hint(
            "or at what models have cost",
            shlex.join([rowcall, "spend", "--tenant", tenant, "--by", "method", "--by", "model"]),
        ),
        Hint(
            "or at all rows, in psql: rowcall dev says how to open each shard; there",
            "shard_a=> select name, method, state, attempt, created_at, finished_at from rowcall.jobs;",
        ),
    ]


def _program(name: str) -> str:
    """How to call a program that is installed beside this one, from this shell."""
    beside = Path(sys.executable).with_name(name)
    return name if shutil.which(name) == str(beside) or not beside.is_file() else _short(beside)


def _short(path: Path) -> str:
    """Relative where it lies below the working directory."""
    return os.path.relpath(path) if path.absolute().is_relative_to(Path.cwd()) else str(path)
